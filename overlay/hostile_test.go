package overlay_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anacrolix/dht/v2/krpc"
	alog "github.com/anacrolix/log"
	"github.com/anacrolix/torrent/bencode"

	"icvpn/internal/id"
	"icvpn/overlay"
	"icvpn/overlay/overlaytest"
)

// member is a hostile member: it answers each query with what reply returns.
// The library encodes, so it is also an implementation of the other side that is
// not ours.
type member struct {
	net   *overlaytest.Net
	addr  netip.AddrPort
	id    id.ID
	reply func(q *krpc.Msg, from netip.AddrPort) *krpc.Return

	mu    sync.Mutex
	asked map[string]int
}

func (c *cluster) hostile(i int, reply func(*krpc.Msg, netip.AddrPort) *krpc.Return) *member {
	return c.hostileAt(overlaytest.Addr(i), id.Hash("hostile", fmt.Append(nil, i)), reply)
}

func (c *cluster) hostileAt(addr netip.AddrPort, self id.ID, reply func(*krpc.Msg, netip.AddrPort) *krpc.Return) *member {
	m := &member{net: c.net, addr: addr, id: self, reply: reply, asked: make(map[string]int)}
	c.net.Attach(addr, m)
	return m
}

func (m *member) Deliver(pkt []byte, from netip.AddrPort) {
	var q krpc.Msg
	if bencode.Unmarshal(pkt, &q) != nil || q.Y != "q" {
		return
	}
	m.mu.Lock()
	m.asked[q.Q]++
	m.mu.Unlock()
	if r := m.reply(&q, from); r != nil {
		if r.ID.IsZero() {
			r.ID = krpc.ID(m.id)
		}
		m.send(krpc.Msg{T: q.T, Y: "r", R: r}, from)
	}
}

func (m *member) send(msg any, to netip.AddrPort) { m.net.Inject(bencode.MustMarshal(msg), m.addr, to) }

// join makes the member known to every node.
func (m *member) join(c *cluster) {
	for _, n := range c.nodes {
		m.send(krpc.Msg{T: "x", Y: "q", Q: "ping", A: &krpc.MsgArgs{ID: krpc.ID(m.id)}}, n.Addr)
	}
	time.Sleep(time.Second)
}

func (m *member) count(q string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked[q]
}

func withToken(r *krpc.Return) *krpc.Return {
	token := "token"
	r.Token = &token
	return r
}

// recorder takes the place of the library's own handler, which writes to standard
// error.
type recorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *recorder) Handle(rec alog.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, rec.Text())
}

func TestHostileDatagramsNeitherCrashNorSpeak(t *testing.T) {
	var loud recorder
	before := alog.Default.Handlers
	alog.Default.SetHandlers(&loud)
	defer alog.Default.SetHandlers(before...)
	id20 := strings.Repeat("i", 20)
	pkts := []string{
		"d1:q3:put1:t2:aa1:y1:qe", // 23 bytes: the library's nil dereference
		"d1:q13:announce_peer1:t2:aa1:y1:qe",
		"d1:ad2:id20:" + id20 + "e1:q13:announce_peer1:t2:aa1:y1:qe",
		"d1:q3:get1:t2:aa1:y1:qe",
		"d1:q9:get_peers1:t2:aa1:y1:qe",
		"d1:q8:anything1:t2:aa1:y1:qe",
		"d1:ad2:id20:" + id20 + "1:k32:" + strings.Repeat("k", 32) + "e1:q3:put1:t2:aa1:y1:qe",
		"d1:rd2:id20:" + id20 + "1:k32:" + strings.Repeat("k", 32) + "e1:t2:aa1:y1:re",
		"d1:rd2:id20:" + id20 + "e1:t1:\x001:y1:re", // a guess at the library's first transaction
		"d1:eli201e5:helloe1:t1:\x001:y1:ee",
		"de", "d", "", "hello", strings.Repeat("l", 1000), strings.Repeat("x", 65000),
	}
	inBubble(t, 3, nil, func(t *testing.T, c *cluster) {
		sent, _ := c.net.Sent()
		for _, p := range pkts {
			c.net.Inject([]byte(p), overlaytest.Addr(99), c.nodes[0].Addr)
		}
		time.Sleep(100 * time.Millisecond)
		after, _ := c.net.Sent()
		if n := after - sent - uint64(len(pkts)); n != 0 {
			t.Errorf("%d answers to hostile datagrams", n)
		}
		st, drops := c.nodes[0].Stats(), uint64(0)
		for _, d := range overlay.Drops() {
			t.Logf("%v: %d", d, st.Dropped(d))
			drops += st.Dropped(d)
		}
		if drops != uint64(len(pkts)) {
			t.Errorf("%d drops counted, want %d", drops, len(pkts))
		}
		it := overlay.SignItem(newKey(t), nil, 1, []byte("alive"))
		mustPut(t, c.nodes[0], it)
		mustGet(t, c.nodes[2], it)
	})
	if len(loud.lines) > 0 {
		t.Errorf("the library spoke past our logger: %q", loud.lines)
	}
}

func TestDatagramsFromImpossibleAddressesAreDropped(t *testing.T) {
	inBubble(t, 1, nil, func(t *testing.T, c *cluster) {
		ping := bencode.MustMarshal(krpc.Msg{T: "x", Y: "q", Q: "ping", A: &krpc.MsgArgs{ID: krpc.ID(id.Hash("x"))}})
		for _, a := range []string{"192.0.2.1:0", "0.0.0.0:4500", "224.0.0.1:4500", "[ff02::1]:4500", "255.255.255.255:1"} {
			c.nodes[0].Deliver(ping, netip.MustParseAddrPort(a))
		}
		c.nodes[0].Deliver(ping, netip.AddrPort{})
		synctestWait()
		if n := c.nodes[0].Stats().Dropped(overlay.DropAddress); n != 6 {
			t.Errorf("%d dropped, want 6", n)
		}
	})
}

func synctestWait() { time.Sleep(time.Millisecond) }

func TestForgedAnswersAreRefused(t *testing.T) {
	key := newKey(t)
	good := overlay.SignItem(key, nil, 7, []byte("good"))
	one := int64(9)
	value := func(s string) bencode.Bytes { return bencode.MustMarshal(s) }
	forgeries := map[string]func(r *krpc.Return){
		"unsigned newer item": func(r *krpc.Return) { r.V, r.Seq, r.K = value("bad"), &one, [32]byte(good.Key) },
		"signature of another sequence number": func(r *krpc.Return) {
			r.V, r.Seq, r.K, r.Sig = value("good"), &one, [32]byte(good.Key), good.Sig
		},
		"another key's item": func(r *krpc.Return) {
			it := overlay.SignItem(newKey(t), nil, 9, []byte("bad"))
			r.V, r.Seq, r.K, r.Sig = value("bad"), &one, [32]byte(it.Key), it.Sig
		},
		"another salt's item": func(r *krpc.Return) {
			it := overlay.SignItem(key, []byte("other"), 9, []byte("bad"))
			r.V, r.Seq, r.K, r.Sig = value("bad"), &one, [32]byte(it.Key), it.Sig
		},
		"chunk in its place":    func(r *krpc.Return) { r.V = value("bad") },
		"key without a number":  func(r *krpc.Return) { r.V, r.K, r.Sig = value("bad"), [32]byte(good.Key), good.Sig },
		"dictionary as a value": func(r *krpc.Return) { r.V, r.Seq, r.K = bencode.Bytes("d1:a1:be"), &one, [32]byte(good.Key) },
		"a value of 700 bytes": func(r *krpc.Return) {
			it := overlay.SignItem(key, nil, 9, make([]byte, 700))
			r.V, r.Seq, r.K, r.Sig = bencode.MustMarshal(it.Value), &one, [32]byte(it.Key), it.Sig
		},
	}
	for name, forge := range forgeries {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 4, nil, func(t *testing.T, c *cluster) {
				m := c.hostile(50, func(q *krpc.Msg, _ netip.AddrPort) *krpc.Return {
					r := withToken(&krpc.Return{})
					if q.Q == "get" {
						forge(r)
					}
					return r
				})
				m.join(c)
				mustPut(t, c.nodes[0], good)
				mustGet(t, c.nodes[3], good)
				if m.count("get") == 0 {
					t.Error("the hostile member was not asked")
				}
			})
		})
	}
}

// Whoever answers in another's name must know the tag in the transaction.
func TestSpoofedAnswersAreDropped(t *testing.T) {
	inBubble(t, 2, nil, func(t *testing.T, c *cluster) {
		for i := range 256 {
			for _, tx := range []string{string(binary.AppendUvarint(nil, uint64(i))), string(binary.AppendUvarint(nil, uint64(i))) + "12345678"} {
				pkt := bencode.MustMarshal(krpc.Msg{T: tx, Y: "r", R: &krpc.Return{ID: krpc.ID(id.Hash("spoofer"))}})
				c.net.Inject(pkt, c.nodes[1].Addr, c.nodes[0].Addr)
			}
			synctestWait()
		}
		time.Sleep(time.Second)
		if n := c.nodes[0].Stats().Dropped(overlay.DropUnasked); n != 512 {
			t.Errorf("%d spoofed answers dropped, want 512", n)
		}
		if nodes := c.nodes[0].Nodes(); len(nodes) != 1 || nodes[0].ID != id.Hash("test node", []byte("1")) {
			t.Errorf("contacts %v", nodes)
		}
	})
}

func TestPutNeedsATokenAndASignature(t *testing.T) {
	inBubble(t, 1, nil, func(t *testing.T, c *cluster) {
		m := new(client)
		addr := overlaytest.Addr(60)
		c.net.Attach(addr, m)
		self := krpc.ID(id.Hash("client"))
		do := func(q string, a krpc.MsgArgs) krpc.Msg {
			a.ID = self
			c.net.Inject(bencode.MustMarshal(krpc.Msg{T: "x", Y: "q", Q: q, A: &a}), addr, c.nodes[0].Addr)
			time.Sleep(100 * time.Millisecond)
			return m.lastAnswer()
		}
		it := overlay.SignItem(newKey(t), []byte("salt"), 3, []byte("value"))
		args := krpc.MsgArgs{K: [32]byte(it.Key), Salt: it.Salt, Seq: &it.Seq, Sig: it.Sig, V: it.Value}
		target := krpc.ID(overlay.Target(it.Key, it.Salt))

		args.Token = "guessed!"
		if r := do("put", args); r.E == nil || r.E.Code != krpc.ErrorCodeProtocolError {
			t.Errorf("without a token: %+v", r)
		}
		got := do("get", krpc.MsgArgs{Target: target})
		if got.R == nil || got.R.Token == nil || got.R.V != nil {
			t.Fatalf("get: %+v", got)
		}
		args.Token = *got.R.Token
		bad := args
		bad.Sig[0] ^= 1
		if r := do("put", bad); r.E == nil || r.E.Code != krpc.ErrorCodeInvalidSignature {
			t.Errorf("forged: %+v", r)
		}
		bad = args
		bad.V = make([]byte, overlay.MaxValue+1)
		if r := do("put", bad); r.E == nil || r.E.Code != krpc.ErrorCodeMessageValueFieldTooBig {
			t.Errorf("too big: %+v", r)
		}
		bad = args
		bad.Salt = make([]byte, overlay.MaxSalt+1)
		if r := do("put", bad); r.E == nil || r.E.Code != krpc.ErrorCodeSaltFieldTooBig {
			t.Errorf("salt too big: %+v", r)
		}
		if r := do("put", args); r.R == nil {
			t.Errorf("good put: %+v", r)
		}
		if r := do("get", krpc.MsgArgs{Target: target}); r.R == nil || *r.R.Seq != 3 || r.R.Sig != it.Sig || string(r.R.V) != "5:value" {
			t.Errorf("get after put: %+v", r.R)
		}
		old := overlay.SignItem(newKey(t), []byte("salt"), 2, []byte("old"))
		args.K, args.Seq, args.Sig, args.V = [32]byte(it.Key), &old.Seq, old.Sig, old.Value
		if r := do("put", args); r.E == nil || r.E.Code != krpc.ErrorCodeSequenceNumberLessThanCurrent {
			t.Errorf("rollback: %+v", r)
		}
	})
}

// client keeps the last answer; the pings that come to verify it are not one.
type client struct {
	mu   sync.Mutex
	last krpc.Msg
}

func (c *client) Deliver(pkt []byte, _ netip.AddrPort) {
	var m krpc.Msg
	if bencode.Unmarshal(pkt, &m) == nil && m.Y != "q" {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.last = m
	}
}

func (c *client) lastAnswer() krpc.Msg {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// A member that plays ever nearer nodes, all of which answer, leads a walk to its
// bound and not further.
func TestWalkEndsDespiteInventedNodes(t *testing.T) {
	inBubble(t, 2, nil, func(t *testing.T, c *cluster) {
		const played = 1000
		ip := overlaytest.Addr(50).Addr()
		node := func(i int, target krpc.ID) krpc.NodeInfo {
			binary.BigEndian.PutUint32(target[16:], binary.BigEndian.Uint32(target[16:])^uint32(played-i+1))
			as16 := ip.As16()
			return krpc.NodeInfo{ID: target, Addr: krpc.NodeAddr{IP: as16[:], Port: 4500 + i}}
		}
		for i := range played {
			addr := netip.AddrPortFrom(ip, uint16(4500+i))
			m := c.hostileAt(addr, id.Hash("invented", fmt.Append(nil, i)), func(q *krpc.Msg, _ netip.AddrPort) *krpc.Return {
				r := withToken(&krpc.Return{})
				if q.Q != "get" {
					return r
				}
				r.ID = node(i, q.A.Target).ID
				for j := i + 1; j < min(i+9, played); j++ {
					r.Nodes6 = append(r.Nodes6, node(j, q.A.Target))
				}
				return r
			})
			if i == 0 {
				m.join(c)
			}
		}
		before := c.nodes[1].Stats().Asked.Load()
		_, err := c.nodes[1].Get(t.Context(), pub(newKey(t)), nil)
		if !errors.Is(err, overlay.ErrNotFound) {
			t.Errorf("Get: %v", err)
		}
		if asked := c.nodes[1].Stats().Asked.Load() - before; asked < 20 || asked > 100 {
			t.Errorf("%d queries in a walk among invented nodes", asked)
		}
	})
}

func TestAddressesThatPointInwardAreNotAsked(t *testing.T) {
	inBubble(t, 2, nil, func(t *testing.T, c *cluster) {
		bait := map[string]*member{}
		for _, a := range []string{"127.0.0.1:4500", "169.254.169.254:80", "[::1]:4500", "[fe80::1]:4500"} {
			bait[a] = c.hostileAt(netip.MustParseAddrPort(a), id.Hash(a), func(*krpc.Msg, netip.AddrPort) *krpc.Return {
				return withToken(&krpc.Return{})
			})
		}
		m := c.hostile(50, func(q *krpc.Msg, _ netip.AddrPort) *krpc.Return {
			r := withToken(&krpc.Return{})
			for a := range bait {
				ap := netip.MustParseAddrPort(a)
				ip := ap.Addr().As16()
				r.Nodes6 = append(r.Nodes6, krpc.NodeInfo{ID: krpc.ID(id.Hash(a)), Addr: krpc.NodeAddr{IP: ip[:], Port: int(ap.Port())}})
			}
			return r
		})
		m.join(c)
		c.nodes[0].Get(t.Context(), pub(newKey(t)), nil) //nolint:errcheck // only what is asked counts
		for a, b := range bait {
			if n := b.count("get") + b.count("find_node") + b.count("ping"); n > 0 {
				t.Errorf("%s was asked %d times", a, n)
			}
		}
		if m.count("get") == 0 {
			t.Error("the hostile member was not asked")
		}
	})
}

func TestFloodFromOnePrefixIsLimited(t *testing.T) {
	rate := func(c *overlay.Config) { c.AnswerRate = 50 }
	inBubble(t, 2, rate, func(t *testing.T, c *cluster) {
		n := c.nodes[0]
		answered := n.Stats().Answered.Load()
		ping := bencode.MustMarshal(krpc.Msg{T: "x", Y: "q", Q: "ping", A: &krpc.MsgArgs{ID: krpc.ID(id.Hash("flood"))}})
		for i := range 1000 {
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 4500)
			c.net.Inject(ping, from, n.Addr)
			if i%100 == 99 {
				time.Sleep(50 * time.Millisecond)
			}
		}
		time.Sleep(100 * time.Millisecond)
		if got := n.Stats().Answered.Load() - answered; got > 140 {
			t.Errorf("%d answers to one /24 in half a second", got)
		}
		if n.Stats().Dropped(overlay.DropRate) == 0 {
			t.Error("nothing dropped for the rate")
		}
		it := overlay.SignItem(newKey(t), nil, 1, []byte("x"))
		mustPut(t, c.nodes[1], it)
	})
}

func TestOnlyAdmittedNodesBecomeContactsAndStore(t *testing.T) {
	hostile := id.Hash("hostile", []byte("50"))
	admit := func(c *overlay.Config) {
		c.Admit = func(n id.ID, _ netip.AddrPort) bool { return n != hostile }
	}
	inBubble(t, 3, admit, func(t *testing.T, c *cluster) {
		m := c.hostile(50, func(*krpc.Msg, netip.AddrPort) *krpc.Return { return withToken(&krpc.Return{}) })
		m.join(c)
		c.setBootstrap(append(c.bootstrap(), m.addr)...) // so that it is asked
		time.Sleep(10 * time.Minute)
		it := overlay.SignItem(newKey(t), nil, 1, []byte("x"))
		if acks := mustPut(t, c.nodes[0], it); acks != 3 {
			t.Errorf("%d acknowledgements, want 3", acks)
		}
		if m.count("get") == 0 || m.count("ping") == 0 {
			t.Error("the hostile member was not asked")
		}
		if m.count("put") > 0 {
			t.Error("a node that is not admitted was asked to store")
		}
		for _, n := range c.nodes {
			for _, k := range n.Nodes() {
				if k.ID == hostile {
					t.Errorf("%v has it for a contact", n.Addr)
				}
			}
		}
	})
}

// Admit may change its mind: nobody is listed at first, say, and everybody let in.
// The one it turns down keeps no place, whatever he answers.
func TestContactThatIsNoLongerAdmittedGoes(t *testing.T) {
	hostile := id.Hash("hostile", []byte("50"))
	for name, later := range map[string]func(m *member, q *krpc.Msg, from netip.AddrPort) *krpc.Return{
		"answers as before": func(*member, *krpc.Msg, netip.AddrPort) *krpc.Return { return withToken(&krpc.Return{}) },
		"refuses":           refuse,
		"answers as who asks": func(_ *member, q *krpc.Msg, _ netip.AddrPort) *krpc.Return {
			return &krpc.Return{ID: q.A.ID}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var listed atomic.Bool
			admit := func(c *overlay.Config) {
				c.Admit = func(n id.ID, _ netip.AddrPort) bool { return n != hostile || !listed.Load() }
			}
			inBubble(t, 3, admit, func(t *testing.T, c *cluster) {
				m := c.hostile(50, nil)
				m.reply = func(q *krpc.Msg, from netip.AddrPort) *krpc.Return {
					if listed.Load() {
						return later(m, q, from)
					}
					return withToken(&krpc.Return{})
				}
				m.join(c)
				if at := c.with(hostile); at != 3 {
					t.Fatalf("%d nodes have it for a contact, want 3", at)
				}
				listed.Store(true)
				time.Sleep(5 * time.Minute)
				if at := c.with(hostile); at > 0 {
					t.Errorf("%d nodes have it for a contact", at)
				}
				before := m.count("ping") + m.count("get") + m.count("find_node")
				time.Sleep(time.Hour)
				if asked := m.count("ping") + m.count("get") + m.count("find_node") - before; asked > 0 {
					t.Errorf("it was asked %d times, an hour long", asked)
				}
			})
		})
	}
}

// Who is admitted has to answer too: a refusal, or an answer of somebody else, is
// none.
func TestContactThatDoesNotAnswerAsItselfGoes(t *testing.T) {
	hostile := id.Hash("hostile", []byte("50"))
	for name, later := range map[string]func(m *member, q *krpc.Msg, from netip.AddrPort) *krpc.Return{
		"refuses": refuse,
		"answers as who asks": func(_ *member, q *krpc.Msg, _ netip.AddrPort) *krpc.Return {
			return &krpc.Return{ID: q.A.ID}
		},
		"answers as a stranger": func(*member, *krpc.Msg, netip.AddrPort) *krpc.Return {
			return &krpc.Return{ID: krpc.ID(id.Hash("stranger"))}
		},
	} {
		t.Run(name, func(t *testing.T) {
			admit := func(c *overlay.Config) {
				c.Admit = func(n id.ID, _ netip.AddrPort) bool { return n != id.Hash("stranger") }
			}
			inBubble(t, 3, admit, func(t *testing.T, c *cluster) {
				var turned atomic.Bool
				m := c.hostile(50, nil)
				m.reply = func(q *krpc.Msg, from netip.AddrPort) *krpc.Return {
					if turned.Load() {
						return later(m, q, from)
					}
					return withToken(&krpc.Return{})
				}
				m.join(c)
				if at := c.with(hostile); at != 3 {
					t.Fatalf("%d nodes have it for a contact, want 3", at)
				}
				turned.Store(true)
				time.Sleep(30 * time.Minute)
				if at := c.with(hostile); at > 0 {
					t.Errorf("%d nodes have it for a contact", at)
				}
			})
		})
	}
}

// refuse answers with an error.
func refuse(m *member, q *krpc.Msg, from netip.AddrPort) *krpc.Return {
	m.send(krpc.Msg{T: q.T, Y: "e", E: &krpc.Error{Code: 202, Msg: "full"}}, from)
	return nil
}

// with counts the nodes that have n for a contact.
func (c *cluster) with(n id.ID) (nodes int) {
	for _, o := range c.nodes {
		if slices.ContainsFunc(o.Nodes(), func(k overlay.Node) bool { return k.ID == n }) {
			nodes++
		}
	}
	return nodes
}
