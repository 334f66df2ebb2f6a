package admission

import (
	"bytes"
	"crypto/ed25519"
	"slices"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

func testTicket() *Ticket {
	return &Ticket{
		ID: TicketID{1}, PID: id.ID{2}, SecretID: "web-1", Admitted: testNow, Memo: []byte{3},
		Expires: testNow.Add(time.Hour), Key: Key{4},
	}
}

func TestTicketRoundTrip(t *testing.T) {
	want := testTicket()
	b := sealTicket(&Key{1}, testService, testServerKey, want)
	got, err := openTicket([]Key{{9}, {1}}, testService, b)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != want.ID || got.PID != want.PID || got.SecretID != want.SecretID || !bytes.Equal(got.Memo, want.Memo) ||
		got.Key != want.Key || !got.Admitted.Equal(want.Admitted) || !got.Expires.Equal(want.Expires) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	if bytes.Equal(b, sealTicket(&Key{1}, testService, testServerKey, want)) {
		t.Fatal("two seals are equal: the nonce repeats")
	}
}

func TestTicketOpensOnlyUnderItsKeyAndService(t *testing.T) {
	b := sealTicket(&Key{1}, testService, testServerKey, testTicket())
	for name, open := range map[string]func() (*Ticket, error){
		"another key":     func() (*Ticket, error) { return openTicket([]Key{{2}}, testService, b) },
		"no key":          func() (*Ticket, error) { return openTicket(nil, testService, b) },
		"another service": func() (*Ticket, error) { return openTicket([]Key{{1}}, id.ID{1}, b) },
	} {
		if _, err := open(); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func TestTicketRefusesEveryChange(t *testing.T) {
	b := sealTicket(&Key{1}, testService, testServerKey, testTicket())
	keys := []Key{{1}}
	for i := range b {
		if _, err := openTicket(keys, testService, b[:i]); err == nil {
			t.Errorf("opened when cut to %d bytes", i)
		}
		c := slices.Clone(b)
		c[i] ^= 1
		if _, err := openTicket(keys, testService, c); err == nil {
			t.Errorf("opened with byte %d changed", i)
		}
	}
	if _, err := openTicket(keys, testService, append(slices.Clone(b), 0)); err == nil {
		t.Error("opened with a trailing byte")
	}
	if _, err := openTicket(keys, testService, make([]byte, limitTicket+1)); err == nil {
		t.Error("opened when too long")
	}
}

// withTicket is a world in which a peer was admitted once, and its way back.
func withTicket(t testing.TB) (*world, ClientConfig, run) {
	t.Helper()
	w := newWorld(t)
	r := mustAdmit(t, w, testClientConfig())
	cfg := testClientConfig()
	cfg.Session, cfg.Secret, cfg.Binding = &r.session, nil, testBinding("two")
	return w, cfg, r
}

func TestTicketBringsAPeerBackWithoutItsSecret(t *testing.T) {
	w, cfg, first := withTicket(t)
	second := mustAdmit(t, w, cfg)
	who := w.granted[1]
	if who.PID != w.granted[0].PID || who.SecretID != testSecretID ||
		who.Key != second.session.Key || !who.IDKey.Equal(publicOf(cfg.Identity)) {
		t.Errorf("hook saw %+v", who)
	}
	if second.session.Key == first.session.Key || bytes.Equal(second.session.Ticket, first.session.Ticket) {
		t.Error("key or ticket did not change")
	}
	if len(second.frames) != 7 || second.frames[2].Type != TypeContinue {
		t.Errorf("%d frames", len(second.frames))
	}
	if string(w.memos[0]) != "memo" || string(second.grant) != "grant" {
		t.Errorf("memo %q, grant %q", w.memos[0], second.grant)
	}
	cfg.Session, cfg.Binding = &second.session, testBinding("three")
	third := mustAdmit(t, w, cfg)
	if third.session.Key == second.session.Key {
		t.Error("the ratchet stands still")
	}
}

// TestRenewalKeepsTheTimeOfAdmission: "everyone admitted with secret X since T"
// must find those who came back since.
func TestRenewalKeepsTheTimeOfAdmission(t *testing.T) {
	w, cfg, _ := withTicket(t)
	long := testNow.Add(-240 * time.Hour)
	tk := testTicket()
	tk.PID, tk.Admitted = id.FromKey(publicOf(cfg.Identity)), long
	for i := range 2 {
		cfg.Session = &Session{Key: tk.Key, Ticket: sealTicket(&w.service.TicketKeys[0], testService, testServerKey, tk), Expires: tk.Expires}
		r := mustAdmit(t, w, cfg)
		if got := w.granted[1+i].Admitted; !got.Equal(long) {
			t.Errorf("renewal %d: admitted %v, want %v", i, got, long)
		}
		var err error
		if tk, err = openTicket(w.service.TicketKeys, testService, r.session.Ticket); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTicketsOfARotatedKeyStillOpen(t *testing.T) {
	w, cfg, _ := withTicket(t)
	w.service.TicketKeys = []Key{{7}, w.service.TicketKeys[0]}
	r := mustAdmit(t, w, cfg)
	if _, err := openTicket([]Key{{7}}, testService, r.session.Ticket); err != nil {
		t.Error("the new ticket is not under the new key")
	}
	w, cfg, _ = withTicket(t)
	w.service.TicketKeys = []Key{{7}}
	if r := admit(t, w, cfg, nil); refusedWith(r.clientErr) != CodeTicket {
		t.Errorf("a ticket of a forgotten key: %v", r.clientErr)
	}
}

// TestHoldsTicketTellsAStrangerFromAMember, and what it has opened serves its own
// frame only.
func TestHoldsTicketTellsAStrangerFromAMember(t *testing.T) {
	w, cfg, _ := withTicket(t)
	c, s := newTestClient(t, cfg), newTestServer(t, w, cfg.Binding)
	var r run
	replayTo(t, c, s, 2, &r)
	shown := r.frames[2]
	forged := *cfg.Session
	forged.Ticket = slices.Clone(forged.Ticket)
	forged.Ticket[len(forged.Ticket)-1]++
	other := cfg
	other.Session = &forged
	var lie run
	replayTo(t, newTestClient(t, other), newTestServer(t, w, cfg.Binding), 2, &lie)
	for name, f := range map[string]Frame{
		"forged ticket": lie.frames[2], "Start": encode(TypeStart, &start{SecretID: testSecretID}), "malformed": {Type: TypeContinue, Body: []byte{1}},
	} {
		if s.HoldsTicket(f) {
			t.Errorf("%s passes for a ticket", name)
		}
	}
	if !s.HoldsTicket(shown) {
		t.Fatal("a ticket is none")
	}
	if out := mustStep(t, s, lie.frames[2]); out.Refused != CodeTicket {
		t.Errorf("a forged ticket after a good one: %v", out.Refused)
	}
	if s.HoldsTicket(shown) {
		t.Error("a ticket is asked for when the admission is over")
	}
}

// TestTicketIsOfItsIssuerInEveryField: another service, issuer or field under the
// same signature is another ticket.
func TestTicketIsOfItsIssuerInEveryField(t *testing.T) {
	issuer := publicOf(testServerKey)
	for name, change := range map[string]func(*Ticket){
		"ID": func(t *Ticket) { t.ID[0]++ }, "PID": func(t *Ticket) { t.PID[0]++ }, "secret": func(t *Ticket) { t.SecretID = "db-1" },
		"admitted": func(t *Ticket) { t.Admitted = t.Admitted.Add(time.Hour) }, "memo": func(t *Ticket) { t.Memo = []byte{4} },
		"expires": func(t *Ticket) { t.Expires = t.Expires.Add(time.Hour) }, "key": func(t *Ticket) { t.Key[0]++ },
		"issuer": func(t *Ticket) { t.Issuer[0]++ }, "signature": func(t *Ticket) { t.sig[0]++ },
	} {
		tk, err := openTicket([]Key{{1}}, testService, sealTicket(&Key{1}, testService, testServerKey, testTicket()))
		if err != nil {
			t.Fatal(err)
		}
		for _, self := range []ed25519.PrivateKey{testServerKey, testKey("another")} {
			if !tk.issuedBy(issuer, self, testService) || tk.issuedBy(issuer, self, id.ID{1}) || tk.issuedBy(publicOf(testKey("another")), self, testService) {
				t.Fatal("the ticket does not say who issued it for what")
			}
		}
		change(tk)
		for _, self := range []ed25519.PrivateKey{testServerKey, testKey("another")} {
			if tk.issuedBy(issuer, self, testService) {
				t.Errorf("%s changed: still its issuer's", name)
			}
		}
	}
}

// TestOwnTicketNeedsNoSignature, and nobody else's does without.
func TestOwnTicketNeedsNoSignature(t *testing.T) {
	issuer, another := publicOf(testServerKey), testKey("another")
	for name, tc := range map[string]struct {
		change       func(*Ticket)
		self, others bool
	}{
		"as it was":             {func(*Ticket) {}, true, true},
		"without the mark":      {func(t *Ticket) { clear(t.own) }, true, true},
		"marked by another":     {func(t *Ticket) { t.own = ownTicket(another, testService, bodyOf(t), t.sig) }, true, true},
		"signed by another":     {func(t *Ticket) { t.sig = wire.Sign(another, labelTicketSignature, testService[:], bodyOf(t)) }, false, false},
		"and marked by another": {func(t *Ticket) { clear(t.sig); t.own = ownTicket(another, testService, bodyOf(t), t.sig) }, false, false},
		"and marked by itself":  {func(t *Ticket) { clear(t.sig); t.own = ownTicket(testServerKey, testService, bodyOf(t), t.sig) }, true, false},
	} {
		tk, err := openTicket([]Key{{1}}, testService, sealTicket(&Key{1}, testService, testServerKey, testTicket()))
		if err != nil {
			t.Fatal(err)
		}
		tc.change(tk)
		if got := tk.issuedBy(issuer, testServerKey, testService); got != tc.self {
			t.Errorf("%s: its issuer takes it: %v", name, got)
		}
		if got := tk.issuedBy(issuer, another, testService); got != tc.others {
			t.Errorf("%s: another super peer takes it: %v", name, got)
		}
	}
}

func bodyOf(t *Ticket) []byte { w := t.fields(); return wire.Marshal(&w) }

// TestTicketOfAnIssuerThatIsGoneNeedsTheSecret: a super peer that was removed, or
// whose time is up.
func TestTicketOfAnIssuerThatIsGoneNeedsTheSecret(t *testing.T) {
	for name, issuer := range map[string]func(id.ID, time.Time) (ed25519.PublicKey, bool){
		"removed": func(id.ID, time.Time) (ed25519.PublicKey, bool) { return nil, false }, "nobody is known": nil,
	} {
		w, cfg, _ := withTicket(t)
		w.service.Issuer = issuer
		if r := admit(t, w, cfg, nil); refusedWith(r.clientErr) != CodeTicket || w.ticketUse != 0 {
			t.Errorf("%s: %v", name, r.clientErr)
		}
	}
}

func TestTicketWorksOnce(t *testing.T) {
	w, cfg, _ := withTicket(t)
	mustAdmit(t, w, cfg)
	cfg.Binding = testBinding("three")
	if r := admit(t, w, cfg, nil); refusedWith(r.clientErr) != CodeTicket || len(w.granted) != 2 {
		t.Fatalf("second use: %v", r.clientErr)
	}
}

func TestExpiredSessionFallsBackToTheSecret(t *testing.T) {
	w, cfg, first := withTicket(t)
	old := first.session
	old.Expires = testNow // the client's own copy says so
	cfg.Session = &old
	if r := admit(t, w, cfg, nil); r.clientErr == nil || refusedWith(r.clientErr) != 0 || len(r.frames) != 2 {
		t.Fatalf("without a secret: %v", r.clientErr)
	}
	cfg.Secret = testSecret
	if r := mustAdmit(t, w, cfg); r.frames[2].Type != TypeStart || !old.Expired(testNow) || old.Expired(testNow.Add(-1)) {
		t.Fatal("the secret was not used")
	}
}

// resumeOf returns the honest Continue message of cfg.
func resumeOf(cfg ClientConfig) *resume {
	pid := id.FromKey(publicOf(cfg.Identity))
	m := &resume{Ticket: cfg.Session.Ticket, IDKey: publicOf(cfg.Identity), Request: []byte("request"), More: cfg.List}
	m.MAC = continueMAC(&cfg.Session.Key, &cfg.Binding, m)
	m.Sig = continueSignature(cfg.Identity, &cfg.Binding, m, testService, pid)
	return m
}

// TestContinueRefusals: whatever is wrong, the answer is the same, nothing is
// granted, and the ticket of the honest peer still works afterwards.
func TestContinueRefusals(t *testing.T) {
	thief := testKey("thief")
	for name, change := range map[string]func(w *world, cfg *ClientConfig, m *resume){
		"ticket changed":    func(_ *world, _ *ClientConfig, m *resume) { m.Ticket[40] ^= 1 },
		"ticket of nothing": func(_ *world, _ *ClientConfig, m *resume) { m.Ticket = nil },
		"forged ticket": func(_ *world, cfg *ClientConfig, m *resume) {
			tk := testTicket()
			tk.PID = id.FromKey(publicOf(cfg.Identity))
			m.Ticket = sealTicket(&Key{0xbb}, testService, testServerKey, tk)
			m.MAC = continueMAC(&tk.Key, &cfg.Binding, m)
			m.Sig = continueSignature(cfg.Identity, &cfg.Binding, m, testService, tk.PID)
		},
		"ticket of another service": func(w *world, cfg *ClientConfig, m *resume) {
			tk := testTicket()
			tk.PID = id.FromKey(publicOf(cfg.Identity))
			m.Ticket = sealTicket(&w.service.TicketKeys[0], id.ID{1}, testServerKey, tk)
			m.MAC = continueMAC(&tk.Key, &cfg.Binding, m)
			m.Sig = continueSignature(cfg.Identity, &cfg.Binding, m, testService, tk.PID)
		},
		"ticket that somebody with the shared key made": func(w *world, cfg *ClientConfig, m *resume) {
			tk := testTicket()
			tk.PID = id.FromKey(publicOf(cfg.Identity))
			m.Ticket = sealTicket(&w.service.TicketKeys[0], testService, thief, tk)
			m.MAC = continueMAC(&tk.Key, &cfg.Binding, m)
			m.Sig = continueSignature(cfg.Identity, &cfg.Binding, m, testService, tk.PID)
		},
		"expired ticket": func(w *world, cfg *ClientConfig, m *resume) {
			tk := testTicket()
			tk.PID, tk.Expires = id.FromKey(publicOf(cfg.Identity)), testNow
			m.Ticket = sealTicket(&w.service.TicketKeys[0], testService, testServerKey, tk)
			m.MAC = continueMAC(&tk.Key, &cfg.Binding, m)
			m.Sig = continueSignature(cfg.Identity, &cfg.Binding, m, testService, tk.PID)
		},
		"another PID with the session key": func(_ *world, cfg *ClientConfig, m *resume) {
			m.IDKey = publicOf(thief)
			m.Sig = continueSignature(thief, &cfg.Binding, m, testService, id.FromKey(m.IDKey))
		},
		"session key without identity key": func(_ *world, cfg *ClientConfig, m *resume) {
			m.Sig = continueSignature(thief, &cfg.Binding, m, testService, id.FromKey(m.IDKey))
		},
		"identity key without session key": func(_ *world, cfg *ClientConfig, m *resume) {
			m.MAC = continueMAC(&Key{}, &cfg.Binding, m)
		},
		"MAC of another session": func(_ *world, cfg *ClientConfig, m *resume) {
			b := testBinding("one")
			m.MAC = continueMAC(&cfg.Session.Key, &b, m)
		},
		"signature of another session": func(_ *world, cfg *ClientConfig, m *resume) {
			b := testBinding("one")
			m.Sig = continueSignature(cfg.Identity, &b, m, testService, id.FromKey(m.IDKey))
		},
		"signature for another service": func(_ *world, cfg *ClientConfig, m *resume) {
			m.Sig = continueSignature(cfg.Identity, &cfg.Binding, m, id.ID{1}, id.FromKey(m.IDKey))
		},
		"request of another": func(_ *world, _ *ClientConfig, m *resume) { m.Request = []byte("another") },
		"list not asked for": func(_ *world, _ *ClientConfig, m *resume) { m.More = !m.More },
		"enrolment signature": func(_ *world, cfg *ClientConfig, m *resume) {
			m.Sig = enrolSignature(cfg.Identity, &cfg.Binding, m.Ticket)
		},
	} {
		w, cfg, _ := withTicket(t)
		r := admit(t, w, cfg, func(n int, f Frame) Frame {
			if n != 2 {
				return f
			}
			m := resumeOf(cfg)
			m.Ticket = slices.Clone(m.Ticket)
			change(w, &cfg, m)
			return encode(TypeContinue, m)
		})
		want := (&Refusal{Code: CodeTicket}).frame()
		if refusedWith(r.clientErr) != CodeTicket || len(w.granted) != 1 || !bytes.Equal(r.frames[3].Body, want.Body) {
			t.Errorf("%s: %v", name, r.clientErr)
		}
		if r.cause == nil || refusedWith(r.cause) != 0 {
			t.Errorf("%s: the log says %v", name, r.cause)
		}
		if w.ticketUse != 0 {
			t.Errorf("%s: burned a ticket", name)
		}
		mustAdmit(t, w, cfg)
	}
}

func TestEveryByteOfContinueCounts(t *testing.T) {
	w, cfg, _ := withTicket(t)
	n := len(encode(TypeContinue, resumeOf(cfg)).Body)
	for i := range n {
		r := admit(t, w, cfg, func(k int, f Frame) Frame {
			if k == 2 {
				f.Body[i] ^= 1
			}
			return f
		})
		if r.grant != nil || len(w.granted) != 1 || w.ticketUse != 0 {
			t.Fatalf("byte %d changed: %v", i, r.clientErr)
		}
	}
}

func TestClientWantsProofThatTheTicketWasOpened(t *testing.T) {
	w, cfg, _ := withTicket(t)
	r := admit(t, w, cfg, func(n int, f Frame) Frame {
		if n == 3 {
			return encode(TypeAccept, &accept{M2: make([]byte, hashSize)})
		}
		return f
	})
	if r.clientErr == nil || r.grant != nil {
		t.Fatal("accepted a super peer that cannot open the ticket")
	}
}

// TestStolenSessionKeyDoesNotOpenTheNext: the ratchet takes what only the two
// ends of the TLS session have.
func TestStolenSessionKeyDoesNotOpenTheNext(t *testing.T) {
	w, cfg, _ := withTicket(t)
	stolen := cfg.Session.Key
	r := mustAdmit(t, w, cfg)
	public := cfg.Binding
	public.Ratchet = Key{}
	if nextSessionKey(&stolen, &public, testService, id.FromKey(publicOf(cfg.Identity))) == r.session.Key {
		t.Fatal("the next key follows from the old one and public values")
	}
}

func TestSecretPeerIsNotOfferedATicketRefusal(t *testing.T) {
	w := newWorld(t)
	r := admit(t, w, testClientConfig(), func(n int, f Frame) Frame {
		if n == 5 {
			return (&Refusal{Code: CodeTicket}).frame()
		}
		return f
	})
	if refusedWith(r.clientErr) != 0 || r.clientErr == nil {
		t.Fatal(r.clientErr)
	}
}

// TestGrantOfATicketIsSealedUnderTheSessionKey: its TLS session has no ML-KEM.
func TestGrantOfATicketIsSealedUnderTheSessionKey(t *testing.T) {
	w, cfg, _ := withTicket(t)
	w.provision = func(Authenticated, []byte) (Granted, error) {
		return Granted{Bytes: []byte("an epoch key"), Expires: testNow.Add(time.Hour)}, nil
	}
	r := mustAdmit(t, w, cfg)
	for _, f := range r.frames {
		if bytes.Contains(f.Body, []byte("an epoch key")) {
			t.Errorf("%v shows the grant", f.Type)
		}
	}
	if string(r.grant) != "an epoch key" {
		t.Errorf("granted %q", r.grant)
	}
	r = admit(t, w, ClientConfig{
		ServiceID: cfg.ServiceID, Identity: cfg.Identity, Binding: testBinding("three"), CheckDescriptor: cfg.CheckDescriptor, Session: &r.session, Request: testRequest, List: true,
	}, func(_ int, f Frame) Frame {
		if f.Type == TypeGrant {
			f.Body[10] ^= 1
		}
		return f
	})
	if r.clientErr == nil || r.grant != nil {
		t.Error("took a grant that was changed")
	}
}

func TestSecretIsProvedOverMLKEMOnly(t *testing.T) {
	w := newWorld(t)
	cfg := testClientConfig()
	cfg.Binding.Hybrid = false
	s := newTestServer(t, w, cfg.Binding)
	r := play(t, newTestClient(t, cfg), s, nil)
	if r.serverErr == nil || len(r.frames) != 3 {
		t.Errorf("%v after %d frames", r.serverErr, len(r.frames))
	}
}

func TestContinueWithoutAListEndsWithTheGrant(t *testing.T) {
	w, cfg, _ := withTicket(t)
	cfg.List = false
	s, c := newTestServer(t, w, cfg.Binding), newTestClient(t, cfg)
	out, err := s.Step(testNow, c.Begin())
	if err != nil {
		t.Fatal(err)
	}
	next, err := c.Step(testNow, out.Send[0])
	if err != nil {
		t.Fatal(err)
	}
	if out, err = s.Step(testNow, next.Send[0]); err != nil || !out.Done || out.Refused != 0 || len(out.Send) != 2 {
		t.Fatalf("%+v, %v", out, err)
	}
	if _, err := c.Step(testNow, out.Send[0]); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Step(testNow, out.Send[1]); err != nil || got.Event != EventGranted {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestContinueIsRefusedAfterTheProof: what a peer is to believe of its
// membership comes from somebody who opened the ticket.
func TestContinueIsRefusedAfterTheProof(t *testing.T) {
	for _, code := range []Code{CodeRevoked, CodeClone, CodeExpiredSecret, CodeScope} {
		w, cfg, _ := withTicket(t)
		w.provision = func(Authenticated, []byte) (Granted, error) { return Granted{}, &Refusal{Code: code} }
		r := admit(t, w, cfg, nil)
		if refusedWith(r.clientErr) != code || r.frames[3].Type != TypeAccept {
			t.Errorf("%v: %v after %v", code, r.clientErr, r.frames[3].Type)
		}
		w, cfg, _ = withTicket(t)
		r = admit(t, w, cfg, func(n int, f Frame) Frame {
			if n == 3 {
				return (&Refusal{Code: code}).frame()
			}
			return f
		})
		if r.clientErr == nil || refusedWith(r.clientErr) != 0 {
			t.Errorf("%v without a proof: %v", code, r.clientErr)
		}
	}
}
