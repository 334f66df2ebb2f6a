package admission

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

var memberAddr = netip.MustParseAddrPort("192.0.2.9:4500")

// party is a member with a ticket, and the super peer that gave it.
type party struct {
	*world
	renewer *Renewer
	session Session
	asked   int // calls of Request
	request []byte
}

func newParty(t testing.TB) *party {
	p := &party{world: worldOf(Verifier{Params: testParams}), request: []byte("request")}
	p.renewer = NewRenewer(&p.service)
	p.session = p.sessionOf(testServerKey, testKey("peer"), Key{4})
	return p
}

// sessionOf is of a ticket that some super peer gave to a member.
func (p *party) sessionOf(issuer, member ed25519.PrivateKey, kC Key) Session {
	tk := testTicket()
	tk.PID, tk.Key = id.FromKey(publicOf(member)), kC
	return Session{Key: kC, Ticket: sealTicket(&p.service.TicketKeys[0], testService, issuer, tk), Expires: tk.Expires}
}

func (p *party) member(change func(*RenewalConfig)) *Renewal {
	cfg := RenewalConfig{
		Service: testService, Identity: publicOf(testKey("peer")), Server: publicOf(testServerKey), Session: &p.session,
		Request: func() ([]byte, error) { p.asked++; return p.request, nil },
	}
	if change != nil {
		change(&cfg)
	}
	return NewRenewal(cfg)
}

// offer has the super peer answer an ask.
func (p *party) offer(t testing.TB, r *Renewal) []byte {
	t.Helper()
	offer, err := p.renewer.Offer(testNow, r.Ask(), memberAddr)
	if err != nil || len(offer) != offerSize {
		t.Fatalf("offer of %d bytes, %v", len(offer), err)
	}
	return offer
}

// take has the member answer the offer.
func (p *party) take(t testing.TB, r *Renewal) []byte {
	t.Helper()
	renewal, granted, err := r.Step(testNow, p.offer(t, r))
	if err != nil || granted != nil || renewal == nil {
		t.Fatalf("an offer is answered with %x, %v, %v", renewal, granted, err)
	}
	return renewal
}

// open has the super peer read a renewal.
func (p *party) open(t testing.TB, renewal []byte) *Asked {
	t.Helper()
	q := p.renewer.Open(testNow, renewal, memberAddr)
	if q == nil {
		t.Fatal("a renewal is not opened")
	}
	return q
}

func TestRenewalByDatagram(t *testing.T) {
	p := newParty(t)
	r := p.member(nil)
	answer, err := p.renewer.Answer(testNow, p.open(t, p.take(t, r)), p)
	if err != nil {
		t.Fatal(err)
	}
	send, granted, err := r.Step(testNow, answer)
	if err != nil || send != nil || granted == nil || string(granted.Grant) != "grant" || !granted.Clock.Equal(testNow) {
		t.Fatalf("%x, %+v, %v", send, granted, err)
	}
	next, err := openTicket(p.service.TicketKeys, testService, granted.Session.Ticket)
	if err != nil || next.Key != granted.Session.Key || next.Key == p.session.Key || next.Key == (Key{}) || !next.Expires.Equal(granted.Session.Expires) {
		t.Errorf("the two ends have different session keys, or the old one: %v", err)
	}
	who := p.granted[0]
	if !who.ByDatagram || !who.Continued || who.SecretID != testSecretID || !who.IDKey.Equal(publicOf(testKey("peer"))) || !who.Admitted.Equal(testNow) {
		t.Errorf("granted to %+v", who)
	}
}

// TestRenewalsDifferThoughTheSessionIsTheSame: an answer may be lost, and nobody who
// has seen one renewal can tell what the other's keys are.
func TestRenewalsDifferThoughTheSessionIsTheSame(t *testing.T) {
	p := newParty(t)
	r := p.member(nil)
	a := p.take(t, r)
	lost := r.next
	b := p.take(t, r)
	if bytes.Equal(a[1+cookieSize:], b[1+cookieSize:]) || lost == r.next || p.asked != 2 {
		t.Error("the second try repeats the first")
	}
	late, err := p.renewer.Answer(testNow, p.open(t, a), p)
	if err != nil {
		t.Fatal(err)
	}
	if _, granted, err := r.Step(testNow, late); granted != nil || err != nil {
		t.Errorf("an answer to the first try is taken for one to the second: %v, %v", granted, err)
	}
}

func TestMemberIgnoresWhatIsNoOfferToIt(t *testing.T) {
	p := newParty(t)
	for name, change := range map[string]func(*RenewalConfig){
		"another service":    func(c *RenewalConfig) { c.Service = id.ID{1} },
		"another super peer": func(c *RenewalConfig) { c.Server = publicOf(testKey("other")) },
	} {
		r := p.member(change)
		if send, _, err := r.Step(testNow, p.offer(t, r)); send != nil || err != nil {
			t.Errorf("%s: answered with %x, %v", name, send, err)
		}
	}
	r := p.member(nil)
	offer := p.offer(t, r)
	for i := range offer {
		if i > txSize && i <= txSize+cookieSize { // covered by nothing: it is the super peer's to know again
			continue
		}
		bad := slices.Clone(offer)
		bad[i] ^= 1
		if send, _, err := r.Step(testNow, bad); send != nil || err != nil {
			t.Errorf("byte %d changed: answered with %x, %v", i, send, err)
		}
		if send, _, err := r.Step(testNow, offer[:i]); send != nil || err != nil {
			t.Errorf("cut to %d bytes: answered with %x, %v", i, send, err)
		}
	}
	for name, at := range map[string]time.Duration{"old": offerUse + offerSlack + time.Second, "of the future": offerUse - maxOfferLife - time.Second} {
		if send, _, err := r.Step(testNow.Add(at), offer); send != nil || err != nil {
			t.Errorf("an offer that is %s: answered with %x, %v", name, send, err)
		}
	}
	if p.asked != 0 {
		t.Error("the request was made for a bad offer")
	}
	if send, _, _ := r.Step(testNow, offer); send == nil {
		t.Error("a good offer after bad ones is not taken")
	}
	if send, _, _ := r.Step(testNow, offer); send != nil {
		t.Error("an offer is taken twice")
	}
}

// TestMemberIgnoresPointsOfLowOrder: an honest super peer has none, and a dishonest
// one gains nothing.
func TestMemberIgnoresPointsOfLowOrder(t *testing.T) {
	p := newParty(t)
	r := p.member(nil)
	offer := p.offer(t, r)
	pub := make([]byte, pubSize)
	copy(offer[1+txSize+cookieSize:], pub)
	_, _, _, until, _ := parseOffer(offer)
	copy(offer[offerSize-ed25519.SignatureSize:], wire.Sign(testServerKey, labelDatagramOffer, offerParts(testService, pub, until)...))
	if send, _, err := r.Step(testNow, offer); send != nil || err != nil || p.asked != 0 {
		t.Errorf("answered with %x, %v", send, err)
	}
}

func TestSuperPeerIgnoresWhatIsNoRenewal(t *testing.T) {
	p := newParty(t)
	renewal := p.take(t, p.member(nil))
	for i := range renewal {
		bad := slices.Clone(renewal)
		bad[i] ^= 1
		for what, b := range map[string][]byte{"changed": bad, "the end": renewal[:i]} {
			if q := p.renewer.Open(testNow, b, memberAddr); q != nil {
				t.Errorf("byte %d %s: opened", i, what)
			}
		}
	}
	for name, from := range map[string]string{"another address": "192.0.2.10:4500", "another port": "192.0.2.9:4501"} {
		if p.renewer.Open(testNow, renewal, netip.MustParseAddrPort(from)) != nil {
			t.Errorf("opened from %s", name)
		}
	}
	other := p.member(func(c *RenewalConfig) {
		s := p.sessionOf(testKey("other"), testKey("peer"), Key{4})
		c.Session = &s
	})
	if p.renewer.Open(testNow, p.take(t, other), memberAddr) != nil {
		t.Error("the ticket of another super peer is taken")
	}
	thief := p.member(func(c *RenewalConfig) {
		s := p.session
		s.Key = Key{5}
		c.Session = &s
	})
	if p.renewer.Open(testNow, p.take(t, thief), memberAddr) != nil {
		t.Error("a ticket is taken without its session key")
	}
	if p.renewer.Open(testNow.Add(2*time.Hour), renewal, memberAddr) != nil {
		t.Error("a ticket that has expired is taken")
	}
	if p.ticketUse != 0 {
		t.Error("the backend was asked")
	}
}

func TestOfferedKeysServeForAWhile(t *testing.T) {
	for name, c := range map[string]struct {
		asks []time.Duration // of others, meanwhile
		at   time.Duration
		good bool
	}{
		"at once":                      {good: true},
		"when the next one is there":   {asks: []time.Duration{offerLife}, at: offerUse - 1, good: true},
		"too late":                     {at: offerUse},
		"after the clock was set back": {at: -offerUse},
		"when two more were offered":   {asks: []time.Duration{offerLife, offerUse}, at: offerUse},
	} {
		p := newParty(t)
		r := p.member(nil)
		renewal := p.take(t, r)
		for _, d := range c.asks {
			if _, err := p.renewer.Offer(testNow.Add(d), r.Ask(), memberAddr); err != nil {
				t.Fatal(err)
			}
		}
		if q := p.renewer.Open(testNow.Add(c.at), renewal, memberAddr); (q != nil) != c.good {
			t.Errorf("%s: used %v", name, q != nil)
		}
		p.renewer.Expire(testNow.Add(offerUse + offerLife))
		if p.renewer.current != nil && !p.renewer.current.serves(testNow.Add(offerUse+offerLife)) || p.renewer.former != nil && !p.renewer.former.serves(testNow.Add(offerUse+offerLife)) {
			t.Errorf("%s: a key is kept that may not be used", name)
		}
	}
}

// TestSuperPeerLooksAtARenewalOnce: others may play it again, and a member may send as
// many as it likes.
func TestSuperPeerLooksAtARenewalOnce(t *testing.T) {
	p := newParty(t)
	r := p.member(nil)
	for range maxSeen {
		renewal := p.take(t, r)
		p.open(t, renewal)
		if p.renewer.Open(testNow, renewal, memberAddr) != nil {
			t.Error("a renewal is opened twice")
		}
	}
	if p.renewer.Open(testNow, p.take(t, r), memberAddr) != nil {
		t.Error("one member renews as often as it likes")
	}
	p.session = p.sessionOf(testServerKey, testKey("another"), Key{4})
	p.open(t, p.take(t, p.member(nil)))
	if _, err := p.renewer.Offer(testNow.Add(offerLife), r.Ask(), memberAddr); err != nil {
		t.Fatal(err)
	}
}

// TestTicketNeedsTheMark: who has the service's ticket key makes tickets that open, and
// no mark.
func TestTicketNeedsTheMark(t *testing.T) {
	p := newParty(t)
	tk, err := openTicket(p.service.TicketKeys, testService, p.session.Ticket)
	if err != nil {
		t.Fatal(err)
	}
	w := tk.fields()
	w.Sig, w.Own = tk.sig, make([]byte, hashSize)
	forged := make([]byte, ticketHeader)
	forged[0] = ticketVersion
	copy(forged[1:], ticketKid(&p.service.TicketKeys[0], testService))
	aead, wipe := ticketAEAD(&p.service.TicketKeys[0], testService)
	defer wipe()
	p.session.Ticket = aead.seal(forged, wire.Marshal(&w), ticketAD(testService, forged))
	if _, err := openTicket(p.service.TicketKeys, testService, p.session.Ticket); err != nil {
		t.Fatal(err)
	}
	if p.renewer.Open(testNow, p.take(t, p.member(nil)), memberAddr) != nil {
		t.Error("a ticket is taken without its mark")
	}
}

func TestSuperPeerDeclines(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(p *party)
		member  func(p *party, c *RenewalConfig)
		asked   int // how often the backend is
	}{
		"another identity": {member: func(_ *party, c *RenewalConfig) { c.Identity = publicOf(testKey("other")) }},
		"an issuer that may not admit": {prepare: func(p *party) {
			p.service.Issuer = func(id.ID, time.Time) (ed25519.PublicKey, bool) { return nil, false }
		}},
		"what the backend refuses": {asked: 1, prepare: func(p *party) {
			p.provision = func(Authenticated, []byte) (Granted, error) { return Granted{}, &Refusal{Code: CodeRevoked} }
		}},
		"a grant that is too long": {asked: 1, prepare: func(p *party) {
			p.provision = func(Authenticated, []byte) (Granted, error) {
				return Granted{Bytes: make([]byte, limitDatagram), Expires: testNow.Add(time.Hour)}, nil
			}
		}},
		"a grant that has expired": {asked: 1, prepare: func(p *party) {
			p.provision = func(Authenticated, []byte) (Granted, error) { return Granted{Expires: testNow}, nil }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newParty(t)
			if c.prepare != nil {
				c.prepare(p)
			}
			r := p.member(func(cfg *RenewalConfig) {
				if c.member != nil {
					c.member(p, cfg)
				}
			})
			answer, err := p.renewer.Answer(testNow, p.open(t, p.take(t, r)), p)
			if err == nil || p.ticketUse != c.asked {
				t.Errorf("error %v, backend asked %d times", err, p.ticketUse)
			}
			if _, granted, err := r.Step(testNow, answer); !errors.Is(err, ErrDeclined) || granted != nil {
				t.Errorf("%v, %v", granted, err)
			}
		})
	}
}

func TestMemberIgnoresForgedAnswers(t *testing.T) {
	p := newParty(t)
	r := p.member(nil)
	answer, err := p.renewer.Answer(testNow, p.open(t, p.take(t, r)), p)
	if err != nil {
		t.Fatal(err)
	}
	for i := range answer {
		bad := slices.Clone(answer)
		bad[i] ^= 1
		for _, b := range [][]byte{bad, answer[:i]} {
			if send, granted, err := r.Step(testNow, b); send != nil || granted != nil || err != nil {
				t.Fatalf("byte %d: %x, %v, %v", i, send, granted, err)
			}
		}
	}
	if _, _, err := r.Step(testNow, append([]byte{datagramDeclined}, make([]byte, txSize)...)); err != nil {
		t.Errorf("a renewal of somebody else is declined: %v", err)
	}
	if _, granted, _ := r.Step(testNow, answer); granted == nil {
		t.Error("the answer is not taken after forged ones")
	}
}

func TestRequestTooLongForADatagram(t *testing.T) {
	p := newParty(t)
	p.request = make([]byte, limitDatagram)
	r := p.member(nil)
	if send, _, err := r.Step(testNow, p.offer(t, r)); send != nil || !errors.Is(err, ErrDeclined) {
		t.Errorf("%d bytes, %v", len(send), err)
	}
}

func TestRenewalWipes(t *testing.T) {
	p := newParty(t)
	r := p.member(nil)
	q := p.open(t, p.take(t, r))
	if r.Wipe(); r.next != (Key{}) || r.mine != nil {
		t.Error("the member keeps keys")
	}
	if _, err := p.renewer.Answer(testNow, q, p); err != nil || q.ticket.Key != (Key{}) {
		t.Errorf("the super peer keeps the session key, or %v", err)
	}
}

// TestDatagramVectors checks the format against testdata/datagram.json, which
// datagram.py there computes without any of this code.
func TestDatagramVectors(t *testing.T) {
	file, err := os.ReadFile("testdata/datagram.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]string
	if err := json.Unmarshal(file, &all); err != nil {
		t.Fatal(err)
	}
	get := func(name string) []byte {
		b, err := hex.DecodeString(all[name])
		if err != nil || len(b) == 0 {
			t.Fatalf("%s: %v", name, err)
		}
		return b
	}
	theirs, mine := must(ecdh.X25519().NewPrivateKey(get("offered"))), must(ecdh.X25519().NewPrivateKey(get("own")))
	o := &offered{key: theirs, pub: theirs.PublicKey().Bytes(), cookie: Key(get("cookie_key"))}
	cookie := o.cookieFor(memberAddr)
	var signed []byte
	for _, part := range offerParts(id.ID(get("service")), o.pub, 1_800_000_000_000) {
		signed = append(signed, part...)
	}
	if !bytes.Equal(cookie, get("cookie")) || !bytes.Equal(append(wire.Label(labelDatagramOffer), signed...), get("offer_signed")) {
		t.Errorf("cookie %x, signed %x", cookie, signed)
	}
	r := &Renewal{pid: id.ID(get("pid")), cfg: RenewalConfig{
		Service: id.ID(get("service")), Server: get("server"), Identity: get("idkey"),
		Session: &Session{Key: Key(get("Kc")), Ticket: get("ticket")},
		Request: func() ([]byte, error) { return get("request"), nil },
	}}
	renewal, err := r.take(mine, theirs.PublicKey(), cookie)
	if err != nil || !bytes.Equal(renewal, get("renewal")) || !bytes.Equal(r.next[:], get("next")) {
		t.Errorf("renewal %x, %v, next key %x", renewal, err, r.next[:])
	}
	_, granted, err := r.Step(testNow, get("answer"))
	if err != nil || granted == nil || string(granted.Grant) != "grant" || string(granted.Session.Ticket) != "new" ||
		granted.Session.Expires.UnixMilli() != 1_800_000_000_001 || granted.Clock.UnixMilli() != 1_800_000_000_002 {
		t.Errorf("%+v, %v", granted, err)
	}
	if _, _, err := r.Step(testNow, get("declined")); !errors.Is(err, ErrDeclined) {
		t.Error(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// FuzzRenewal gives both ends what a member can send, in the place of each datagram.
func FuzzRenewal(f *testing.F) {
	p := newParty(f)
	r := p.member(nil)
	f.Add(r.Ask())
	f.Add(p.offer(f, r))
	renewal := p.take(f, r)
	f.Add(renewal)
	answer, err := p.renewer.Answer(testNow, p.open(f, renewal), p)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(answer)
	f.Add([]byte{datagramDeclined})
	f.Fuzz(func(t *testing.T, b []byte) {
		if out, err := p.renewer.Offer(testNow, b, memberAddr); err != nil || len(out) > 0 && len(out) != offerSize {
			t.Errorf("%d bytes, %v", len(out), err)
		}
		if p.renewer.Open(testNow, b, memberAddr) != nil && !bytes.Equal(b, renewal) {
			t.Error("opened what nobody with a ticket has sent")
		}
		for _, m := range []*Renewal{r, p.member(nil)} {
			if _, granted, _ := m.Step(testNow, b); granted != nil && !bytes.Equal(b, answer) {
				t.Error("took an answer that is none")
			}
		}
	})
}
