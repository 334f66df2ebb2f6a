package overlay

import (
	"bytes"
	"crypto/ed25519"
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/anacrolix/dht/v2/krpc"
	"github.com/anacrolix/torrent/bencode"

	"icvpn/internal/id"
)

var (
	testID     = id.Hash("test", []byte("a"))
	testTarget = id.Hash("test", []byte("b"))
	testAddr   = netip.MustParseAddrPort("192.0.2.1:4500")
	testKey    = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
)

// largest returns the largest message of each sort that this package sends.
func largest() map[string]message {
	long := SignItem(testKey, bytes.Repeat([]byte("s"), MaxSalt), math.MaxInt64, bytes.Repeat([]byte("v"), MaxValue))
	t := bytes.Repeat([]byte("t"), maxTransaction)
	base := message{kind: query, t: t, has: hasArgs | hasID, id: testID}
	m := make(map[string]message)

	q := base
	q.q = ping
	m["ping"] = q

	q.q, q.target = findNode, testTarget
	q.has |= hasTarget
	m["find_node"] = q

	q.q = get
	m["get"] = q

	q = base
	q.q, q.salt, q.token = put, long.Salt, bytes.Repeat([]byte("w"), maxToken)
	q.has |= hasSalt | hasToken
	q.setItem(long)
	m["put"] = q

	r := message{kind: response, t: t, has: hasResults | hasID, id: testID}
	m["ping answer"] = r
	for range bucketSize {
		r.nodes = appendNode(r.nodes, Node{testID, testAddr})
	}
	r.has |= hasNodes
	m["find_node answer"] = r
	r.token = bytes.Repeat([]byte("w"), tokenSize)
	r.has |= hasToken
	r.setItem(long)
	m["get answer"] = r

	m["refusal"] = message{kind: refusal, t: t, has: hasError, code: 302, text: bytes.Repeat([]byte("e"), maxText)}
	return m
}

func TestMessageRoundTripAndEveryTruncation(t *testing.T) {
	for name, m := range largest() {
		b := m.append(nil)
		got, why := parse(b)
		if why != DropNone {
			t.Errorf("%s: refused as %v: %q", name, why, b)
			continue
		}
		if again := got.append(nil); !bytes.Equal(again, b) {
			t.Errorf("%s: read %q, wrote %q", name, b, again)
		}
		for n := range b {
			if _, why := parse(b[:n]); why == DropNone {
				t.Errorf("%s: accepted a truncation to %d of %d bytes", name, n, len(b))
			}
		}
		if _, why := parse(append(b, 'e')); why == DropNone {
			t.Errorf("%s: accepted a trailing byte", name)
		}
	}
}

// An answer is never larger than the padded size of its query, and nothing is
// larger than a datagram carries.
func TestAnswersFit(t *testing.T) {
	size := func(name string) int { m := largest()[name]; return len(m.append(nil)) }
	padded := func(name string) int { m := largest()[name]; return PaddedLen(m.append(nil)) }
	for query, answers := range map[string][]string{
		"ping":      {"ping answer"}, // which nothing refuses (TestOnlyPutsAreRefused)
		"find_node": {"find_node answer", "refusal"},
		"get":       {"get answer", "refusal"},
		"put":       {"ping answer", "refusal"},
	} {
		if s := size(query); s > padded(query) || padded(query) > MaxPayload {
			t.Errorf("%s: %d bytes padded to %d", query, s, padded(query))
		}
		for _, a := range answers {
			if size(a) > padded(query) {
				t.Errorf("%s of %d bytes to a %s of %d", a, size(a), query, padded(query))
			}
		}
	}
	t.Logf("get answer %d, put %d, find_node answer %d bytes", size("get answer"), size("put"), size("find_node answer"))
	if n := PaddedLen([]byte("no query")); n != len("no query") {
		t.Errorf("PaddedLen of something else = %d", n)
	}
}

// A ping is not padded, so its answer must be no larger, for any transaction; a
// refusal would be.
func TestOnlyPutsAreRefused(t *testing.T) {
	m := testNode(t, nil)
	for n := 1; n <= maxTransaction; n++ {
		for _, q := range []method{ping, findNode, get} {
			msg := message{kind: query, q: q, t: bytes.Repeat([]byte("t"), n), id: testID, target: testTarget, has: hasArgs | hasID | hasTarget}
			if q == ping {
				msg.has &^= hasTarget
			}
			pkt := msg.append(nil)
			m.Receive(day, pkt, testAddr, nil)
			m.Flush(func(d Datagram) error {
				if a, why := parse(d.Pkt); d.To == testAddr && (why != DropNone && n > tagSize || a.kind == refusal || len(d.Pkt) > PaddedLen(pkt)) && a.kind != query {
					t.Errorf("%s of %d bytes: %d bytes of %c, %v", q, len(pkt), len(d.Pkt), a.kind, why)
				}
				return nil
			})
		}
	}
}

// The datagrams that FACTS and a reading of the library list as deadly or harmful
// to it; parse stops each.
func TestGuardStops(t *testing.T) {
	id20, key32, sig64 := strings.Repeat("i", 20), strings.Repeat("k", 32), strings.Repeat("s", 64)
	args := "d2:id20:" + id20
	for name, c := range map[string]struct {
		pkt  string
		want Drop
	}{
		"put without arguments, 23 bytes":  {"d1:q3:put1:t2:aa1:y1:qe", DropNoArguments},
		"announce without arguments":       {"d1:q13:announce_peer1:t2:aa1:y1:qe", DropMethod},
		"get without arguments":            {"d1:q3:get1:t2:aa1:y1:qe", DropNoArguments},
		"find_node without arguments":      {"d1:q9:find_node1:t2:aa1:y1:qe", DropNoArguments},
		"ping without arguments":           {"d1:q4:ping1:t2:aa1:y1:qe", DropNoArguments},
		"get_peers":                        {"d1:a" + args + "9:info_hash20:" + id20 + "e1:q9:get_peers1:t2:aa1:y1:qe", DropMethod},
		"announce_peer":                    {"d1:a" + args + "9:info_hash20:" + id20 + "5:token1:xe1:q13:announce_peer1:t2:aa1:y1:qe", DropMethod},
		"unknown method, an expvar each":   {"d1:a" + args + "e1:q9:x12345678" + "1:t2:aa1:y1:qe", DropMethod},
		"empty arguments":                  {"d1:ade1:q4:ping1:t2:aa1:y1:qe", DropNoArguments},
		"results for arguments":            {"d1:q4:ping1:r" + args + "e1:t2:aa1:y1:qe", DropNoArguments},
		"arguments and results":            {"d1:a" + args + "e1:q4:ping1:r" + args + "e1:t2:aa1:y1:qe", DropMalformed},
		"find_node without target":         {"d1:a" + args + "e1:q9:find_node1:t2:aa1:y1:qe", DropMalformed},
		"get without target":               {"d1:a" + args + "e1:q3:get1:t2:aa1:y1:qe", DropMalformed},
		"put without token":                {"d1:a" + args + "1:v1:xe1:q3:put1:t2:aa1:y1:qe", DropMalformed},
		"put without value":                {"d1:a" + args + "5:token1:xe1:q3:put1:t2:aa1:y1:qe", DropMalformed},
		"put with key and no seq":          {"d1:a" + args + "1:k32:" + key32 + "3:sig64:" + sig64 + "5:token1:x1:v1:xe1:q3:put1:t2:aa1:y1:qe", DropMalformed},
		"put with a dictionary as value":   {"d1:a" + args + "5:token1:x1:vd1:a1:bee1:q3:put1:t2:aa1:y1:qe", DropMalformed},
		"put with a negative seq":          {"d1:a" + args + "1:k32:" + key32 + "3:seqi-1e3:sig64:" + sig64 + "5:token1:x1:v1:xe1:q3:put1:t2:aa1:y1:qe", DropMalformed},
		"query without transaction":        {"d1:a" + args + "e1:q4:ping1:y1:qe", DropMalformed},
		"answer with key and no seq":       {"d1:r" + args + "1:k32:" + key32 + "3:sig64:" + sig64 + "1:v1:xe1:t9:123456789" + "1:y1:re", DropMalformed},
		"answer with key and no value":     {"d1:r" + args + "1:k32:" + key32 + "3:seqi1e3:sig64:" + sig64 + "e1:t9:1234567891:y1:re", DropMalformed},
		"answer without ID":                {"d1:rde1:t9:1234567891:y1:re", DropMalformed},
		"answer under no ID":               {"d1:rd2:id20:" + strings.Repeat("\x00", 20) + "e1:t9:1234567891:y1:re", DropMalformed},
		"query under no ID":                {"d1:ad2:id20:" + strings.Repeat("\x00", 20) + "e1:q4:ping1:t2:aa1:y1:qe", DropMalformed},
		"answer without results":           {"d1:t9:1234567891:y1:re", DropMalformed},
		"answer with half a node":          {"d1:r" + args + "6:nodes637:" + strings.Repeat("n", 37) + "e1:t9:1234567891:y1:re", DropMalformed},
		"answer with nine nodes":           {"d1:r" + args + "6:nodes6342:" + strings.Repeat("n", 342) + "e1:t9:1234567891:y1:re", DropMalformed},
		"answer with a value too long":     {"d1:r" + args + "1:v601:" + strings.Repeat("v", 601) + "e1:t9:1234567891:y1:re", DropMalformed},
		"answer with a short transaction":  {"d1:r" + args + "e1:t8:123456781:y1:re", DropUnasked},
		"refusal as a string":              {"d1:e5:error1:t9:1234567891:y1:ee", DropMalformed},
		"refusal without a text":           {"d1:eli201ee1:t9:1234567891:y1:ee", DropMalformed},
		"refusal without a list":           {"d1:t9:1234567891:y1:ee", DropMalformed},
		"unknown kind":                     {"d1:t9:1234567891:y1:xe", DropMalformed},
		"no kind":                          {"d1:t9:123456789e", DropMalformed},
		"not bencode":                      {"hello", DropMalformed},
		"empty":                            {"", DropMalformed},
		"claimed length beyond the end":    {"d1:a99:e", DropMalformed},
		"claimed length of 128 MiB":        {"d1:a134217727:e", DropMalformed},
		"claimed length beyond 64 bits":    {"d1:a99999999999999999999:e", DropMalformed},
		"length with a leading zero":       {"d01:q4:ping1:t2:aa1:y1:qe", DropMalformed},
		"keys out of order":                {"d1:q4:ping1:a" + args + "e1:t2:aa1:y1:qe", DropMalformed},
		"a key twice":                      {"d1:a" + args + "e1:q4:ping1:q4:ping1:t2:aa1:y1:qe", DropMalformed},
		"a deep list":                      {"d1:a" + args + "1:x" + strings.Repeat("l", 500) + strings.Repeat("e", 500) + "e1:q4:ping1:t2:aa1:y1:qe", DropMalformed},
		"a long integer":                   {"d1:a" + args + "1:xi" + strings.Repeat("9", 900) + "ee1:q4:ping1:t2:aa1:y1:qe", DropMalformed},
		"minus zero":                       {"d1:a" + args + "1:xi-0ee1:q4:ping1:t2:aa1:y1:qe", DropMalformed},
		"an endless dictionary":            {strings.Repeat("d1:a", 200), DropMalformed},
		"one byte too long for a datagram": {"d1:a" + args + "1:x1110:" + strings.Repeat("x", 1110) + "e1:q4:ping1:t2:aa1:y1:qe", DropTooLong},
	} {
		if _, why := parse([]byte(c.pkt)); why != c.want {
			t.Errorf("%s: %v, want %v (%d bytes)", name, why, c.want, len(c.pkt))
		}
	}
	// Unknown fields of a well-formed query are read over, as BEP 5 wants it.
	ok := "d1:a" + args + "4:wantl2:n42:n6ee1:q4:ping2:roi1e1:t2:aa1:v4:xx001:y1:qe"
	if m, why := parse([]byte(ok)); why != DropNone || m.q != ping {
		t.Errorf("query with extensions: %v", why)
	}
}

// libraryArgs returns the arguments of query m for the library to encode.
func libraryArgs(m *message) krpc.MsgArgs {
	a := krpc.MsgArgs{Target: krpc.ID(m.target), Token: string(m.token)}
	if m.all(hasKey) {
		a.K, a.Sig, a.Seq, a.Salt = m.key, m.sig, &m.seq, m.salt
	}
	if m.all(hasValue) {
		a.V = m.value
	}
	return a
}

// anacrolix/dht is an implementation that is not ours: its codec and this one agree
// about every field of every message.
func TestEncodingAgreesWithLibrary(t *testing.T) {
	for name, m := range largest() {
		var lib krpc.Msg
		if err := bencode.Unmarshal(m.append(nil), &lib); err != nil {
			t.Fatalf("%s: the library: %v", name, err)
		}
		if lib.T != string(m.t) || lib.Y != string(m.kind) || lib.Q != string(m.q) {
			t.Errorf("%s: the library read %+v", name, lib)
		}
		switch m.kind {
		case query:
			args := libraryArgs(&m)
			args.ID = krpc.ID(m.id)
			lib.A = &args
			b := bencode.MustMarshal(lib)
			got, why := parse(b)
			if why != DropNone || !bytes.Equal(got.append(nil), m.append(nil)) {
				t.Errorf("%s: %v from the library's %q", name, why, b)
			}
		case refusal:
			if lib.E == nil || lib.E.Code != int(m.code) {
				t.Errorf("%s: the library read %+v", name, lib.E)
			}
		case response:
			if lib.R.ID != krpc.ID(m.id) || len(lib.R.Nodes6) != len(m.nodes)/nodeSize {
				t.Errorf("%s: the library read %+v", name, lib.R)
			}
		}
	}
}

func TestNodesThatCannotBeAreLeftOut(t *testing.T) {
	var b []byte
	for _, a := range []string{
		"192.0.2.1:4500", "[2001:db8::1]:4500",
		"192.0.2.1:0", "0.0.0.0:4500", "0.1.2.3:4500", "224.0.0.1:4500", "255.255.255.255:4500", "[ff02::1]:4500",
	} {
		b = appendNode(b, Node{testID, netip.MustParseAddrPort(a)})
	}
	nodes := readNodes(b)
	if len(nodes) != 2 || nodes[0].Addr != testAddr || nodes[1].Addr != netip.MustParseAddrPort("[2001:db8::1]:4500") {
		t.Errorf("readNodes = %v", nodes)
	}
}

func FuzzGuard(f *testing.F) {
	for _, m := range largest() {
		f.Add(m.append(nil))
	}
	f.Add([]byte("d1:q3:put1:t2:aa1:y1:qe"))
	f.Add([]byte("d1:ad2:id20:iiiiiiiiiiiiiiiiiiii4:lifei600e5:token8:123456781:v1:xe1:q3:put1:t2:aa1:y1:qe"))
	f.Add([]byte("d1:rd2:id20:iiiiiiiiiiiiiiiiiiii4:lifei600e1:v1:xe1:t9:1234567891:y1:re"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, why := parse(b)
		if why != DropNone {
			return
		}
		// What passes has one form, and anacrolix/dht can decode that form.
		again := m.append(nil)
		if len(again) > len(b) {
			t.Errorf("%q grew to %q", b, again)
		}
		m2, why := parse(again)
		if why != DropNone || !bytes.Equal(m2.append(nil), again) {
			t.Errorf("%q became %q: %v", b, again, why)
		}
		var lib krpc.Msg
		if err := bencode.Unmarshal(again, &lib); err != nil {
			t.Errorf("the library refuses %q: %v", again, err)
		}
	})
}
