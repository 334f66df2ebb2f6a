package admission

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"icvpn/internal/id"
)

// admit runs one honest admission in memory.
func admit(t testing.TB, w *world, cfg ClientConfig, tamper func(int, Frame) Frame) run {
	t.Helper()
	return play(t, newTestClient(t, cfg), newTestServer(t, w, cfg.Binding), tamper)
}

func mustAdmit(t testing.TB, w *world, cfg ClientConfig) run {
	t.Helper()
	r := admit(t, w, cfg, nil)
	if r.clientErr != nil || r.serverErr != nil || string(r.list) != "list for me" {
		t.Fatalf("client: %v; server: %v; list %q", r.clientErr, r.serverErr, r.list)
	}
	return r
}

func TestAdmissionGivesBothTheSameKey(t *testing.T) {
	for _, params := range []Params{
		{Group2048, KDFNone}, {Group3072, KDFNone}, {Group4096, KDFNone}, {Group2048, KDFArgon2id},
	} {
		w := newWorldWith(t, params)
		cfg := testClientConfig()
		cfg.CheckDescriptor = func(root, desc []byte, _ ed25519.PublicKey) (Params, error) {
			if string(root) != "root" || string(desc) != "descriptor" {
				return Params{}, errors.New("not what the owner signed")
			}
			return params, nil
		}
		r := mustAdmit(t, w, cfg)
		who := w.granted[0]
		if who.Key != r.session.Key || who.Key == (Key{}) {
			t.Errorf("%v: session keys differ", params)
		}
		if who.PID != id.FromKey(publicOf(cfg.Identity)) || !who.IDKey.Equal(publicOf(cfg.Identity)) ||
			who.SecretID != testSecretID || who.Service != testService || !who.Admitted.Equal(testNow) {
			t.Errorf("%v: hook saw %+v", params, who)
		}
		if !r.session.Expires.Equal(testNow.Add(time.Hour)) || string(r.info) != "info" || string(r.grant) != "grant" {
			t.Errorf("%v: client got %v, %q, %q", params, r.session, r.info, r.grant)
		}
	}
}

func TestEarlyFramesStayUnderTheCap(t *testing.T) {
	w := newWorldWith(t, Params{Group4096, KDFNone})
	cfg := testClientConfig()
	cfg.CheckDescriptor = func(_, _ []byte, _ ed25519.PublicKey) (Params, error) { return w.service.Params, nil }
	for _, f := range mustAdmit(t, w, cfg).frames {
		if len(f.Body) > f.Type.limit() {
			t.Errorf("%v of %d bytes is over its limit", f.Type, len(f.Body))
		}
	}
}

func TestClientSaysNothingBeforeTheDescriptorIsChecked(t *testing.T) {
	cfg := testClientConfig()
	cfg.CheckDescriptor = func(_, _ []byte, _ ed25519.PublicKey) (Params, error) {
		return Params{}, errors.New("signed by somebody else")
	}
	r := admit(t, newWorld(t), cfg, nil)
	if r.clientErr == nil || len(r.frames) != 2 || r.frames[0].Type != TypeDescriptorRequest {
		t.Fatalf("%d frames, %v", len(r.frames), r.clientErr)
	}
	if bytes.Contains(r.frames[0].Body, []byte(testSecretID)) {
		t.Fatal("the first frame names the secret")
	}
}

func TestUnknownParametersAreRefusedByTheClient(t *testing.T) {
	for _, params := range []Params{{}, {1024, KDFNone}, {1536, KDFNone}, {2047, KDFNone}, {8192, KDFNone}, {Group2048, 0}, {Group2048, 3}} {
		cfg := testClientConfig()
		cfg.CheckDescriptor = func(_, _ []byte, _ ed25519.PublicKey) (Params, error) { return params, nil }
		if r := admit(t, newWorld(t), cfg, nil); r.clientErr == nil || len(r.frames) != 2 {
			t.Errorf("%+v accepted", params)
		}
	}
}

func TestServerOfAnotherGroupIsRefused(t *testing.T) {
	cfg := testClientConfig() // whose descriptor says 2048 bits
	r := admit(t, newWorldWith(t, Params{Group3072, KDFNone}), cfg, nil)
	if !errors.Is(r.clientErr, ErrMalformed) || len(r.frames) != 4 {
		t.Fatalf("%v after %d frames", r.clientErr, len(r.frames))
	}
}

func TestUnknownIDLooksLikeWrongSecret(t *testing.T) {
	wrong := testClientConfig()
	wrong.Secret = []byte("fedcba9876543210")
	unknown := testClientConfig()
	unknown.SecretID = "web-2"
	other := newWorld(t)
	other.verifiers[testSecretID] = Verifier{SecretID: testSecretID, Params: Params{Group3072, KDFNone}, Salt: make([]byte, SaltSize), V: make([]byte, 384)}
	runs := map[string]run{
		"wrong secret":               admit(t, newWorld(t), wrong, nil),
		"wrong secret, prepared":     admit(t, newPreparedWorld(t), wrong, nil),
		"unknown ID, prepared":       admit(t, newPreparedWorld(t), unknown, nil),
		"unknown ID":                 admit(t, newWorld(t), unknown, nil),
		"verifier of another group":  admit(t, other, testClientConfig(), nil),
		"right secret of unknown ID": admit(t, &world{service: newWorld(t).service}, testClientConfig(), nil),
	}
	want := runs["wrong secret"]
	for name, r := range runs {
		if refusedWith(r.clientErr) != CodeWrongSecret || refusedWith(r.cause) != CodeWrongSecret {
			t.Errorf("%s: client %v, cause %v", name, r.clientErr, r.cause)
		}
		if len(r.frames) != len(want.frames) {
			t.Fatalf("%s: %d frames, want %d", name, len(r.frames), len(want.frames))
		}
		for i, f := range r.frames {
			if f.Type != want.frames[i].Type || len(f.Body) != len(want.frames[i].Body) {
				t.Errorf("%s: frame %d is %v of %d bytes, want %v of %d", name, i, f.Type, len(f.Body), want.frames[i].Type, len(want.frames[i].Body))
			}
		}
		if last := len(r.frames) - 1; !bytes.Equal(r.frames[last].Body, want.frames[last].Body) {
			t.Errorf("%s: refused with %x, want %x", name, r.frames[last].Body, want.frames[last].Body)
		}
	}
}

// TestUnknownIDIsRefusedWhateverItsProof: even a proof that fits is refused
// when the verifier stands for nobody.
func TestUnknownIDIsRefusedWhateverItsProof(t *testing.T) {
	for _, w := range []*world{newWorld(t), newPreparedWorld(t)} {
		c, s := newTestClient(t, testClientConfig()), newTestServer(t, w, testBinding("one"))
		var r run
		replayTo(t, c, s, 4, &r)
		s.known = false
		if out := mustStep(t, s, r.frames[4]); out.Send[0].Type != TypeRefused || refusedWith(out.Cause) != CodeWrongSecret {
			t.Fatalf("answered %v", out.Send[0].Type)
		}
	}
}

// newPreparedWorld is newWorld with a table of its verifier's powers.
func newPreparedWorld(t testing.TB) *world {
	t.Helper()
	w := newWorld(t)
	v, err := w.verifiers[testSecretID].Prepared()
	if err != nil {
		t.Fatal(err)
	}
	w.verifiers[testSecretID], w.service.Prepared = v, true
	return w
}

// TestPreparedVerifierAdmits, and gives the same powers as without its table.
func TestPreparedVerifierAdmits(t *testing.T) {
	w := newPreparedWorld(t)
	if r := admit(t, w, testClientConfig(), nil); r.clientErr != nil || r.cause != nil {
		t.Fatalf("client %v, cause %v", r.clientErr, r.cause)
	}
	p := testParams.Group.srp()
	s := &Server{service: &w.service, verifier: w.verifiers[testSecretID], known: true}
	u := bytes.Repeat([]byte{0xa7}, hashSize)
	fast, err := s.powerOfVerifier(u)
	if err != nil {
		t.Fatal(err)
	}
	s.verifier.powers = nil
	slow, err := s.powerOfVerifier(u)
	if err != nil || !bytes.Equal(p.public(fast), p.public(slow)) {
		t.Fatalf("v^u differs: %v", err)
	}
	if _, err := (Verifier{SecretID: "x", Params: testParams}).Prepared(); err == nil {
		t.Error("a verifier without v was prepared")
	}
}

func TestFakeSaltIsTheSameAtEverySuperPeer(t *testing.T) {
	salt := func(w *world, secretID string) string {
		t.Helper()
		cfg := testClientConfig()
		cfg.SecretID = secretID
		r := admit(t, w, cfg, nil)
		var m challenge
		if err := decode(r.frames[3], &m); err != nil {
			t.Fatal(err)
		}
		return string(m.Salt)
	}
	a, b := newWorld(t), newWorld(t)
	if salt(a, "none") != salt(b, "none") || salt(a, "none") != salt(a, "none") {
		t.Error("two super peers of one service give two salts")
	}
	if salt(a, testSecretID) != salt(a, testSecretID) {
		t.Error("a real salt changes")
	}
	if salt(a, "none") == salt(a, "none2") {
		t.Error("two unknown IDs share a salt")
	}
	b.service.FakeKey = Key{9}
	if salt(a, "none") == salt(b, "none") {
		t.Error("the salt does not depend on the key")
	}
	if v := fakeVerifier(Key{1}, testService, "none", testParams); v.Validate() != nil ||
		bytes.Equal(v.Salt, fakeVerifier(Key{1}, id.ID{1}, "none", testParams).Salt) {
		t.Error("fake verifier invalid, or the same for two services")
	}
}

// TestEveryFieldChangedFails flips a bit at either end of each field that a
// proof, a signature or the descriptor check covers.
func TestEveryFieldChangedFails(t *testing.T) {
	flip := func(b []byte, end int) { b[(len(b)-1)*end] ^= 1 }
	type field struct {
		frame  int
		name   string
		change func(Frame, int) Frame
	}
	edit := func(m body, bytes func() []byte) func(Frame, int) Frame {
		return func(f Frame, end int) Frame {
			if err := decode(f, m); err != nil {
				t.Fatal(err)
			}
			flip(bytes(), end)
			return encode(f.Type, m)
		}
	}
	var (
		dr descriptorRequest
		d  descriptor
		st start
		ch challenge
		pr proof
		ac accept
		pv provision
	)
	fields := []field{
		{0, "ServiceID", edit(&dr, func() []byte { return dr.Service })},
		{0, "version", func(f Frame, _ int) Frame { decode(f, &dr); dr.Version++; return encode(f.Type, &dr) }},
		{1, "root", edit(&d, func() []byte { return d.Root })},
		{1, "descriptor", edit(&d, func() []byte { return d.Descriptor })},
		{2, "I", func(f Frame, end int) Frame {
			decode(f, &st)
			b := []byte(st.SecretID)
			flip(b, end)
			return encode(f.Type, &start{SecretID: string(b)})
		}},
		{3, "s", edit(&ch, func() []byte { return ch.Salt })},
		{3, "B", edit(&ch, func() []byte { return ch.B })},
		{4, "A", edit(&pr, func() []byte { return pr.A })},
		{4, "PID", edit(&pr, func() []byte { return pr.PID })},
		{4, "M1", edit(&pr, func() []byte { return pr.M1 })},
		{5, "M2", edit(&ac, func() []byte { return ac.M2 })},
		{6, "request", edit(&pv, func() []byte { return pv.Request })},
		{6, "idkey", edit(&pv, func() []byte { return pv.IDKey })},
		{6, "signature", edit(&pv, func() []byte { return pv.Sig })},
	}
	for _, fd := range fields {
		for end := range 2 {
			w := newWorld(t)
			cfg := testClientConfig()
			cfg.CheckDescriptor = func(root, desc []byte, _ ed25519.PublicKey) (Params, error) {
				if string(root) != "root" || string(desc) != "descriptor" {
					return Params{}, errors.New("not what the owner signed")
				}
				return testParams, nil
			}
			r := admit(t, w, cfg, func(n int, f Frame) Frame {
				if n == fd.frame {
					return fd.change(f, end)
				}
				return f
			})
			if r.clientErr == nil && r.serverErr == nil || len(w.granted) != 0 || r.grant != nil {
				t.Errorf("%s changed (end %d): admitted", fd.name, end)
			}
			if fd.frame < 5 && r.info != nil {
				t.Errorf("%s changed (end %d): accepted", fd.name, end)
			}
		}
	}
}

// TestEveryByteChangedIsNoticed flips each byte of the messages before the
// grant, CBOR heads included. What only TLS protects may arrive changed: the
// super peer's clock and its info.
func TestEveryByteChangedIsNoticed(t *testing.T) {
	w := newWorld(t)
	honest := mustAdmit(t, w, testClientConfig())
	step := 7 // every byte of the long ones takes seconds
	for n := range 7 {
		if n == 1 || n == 5 { // Descriptor goes to the hook, Accept is mostly info: fields above
			continue
		}
		if n == 6 {
			step = 1
		}
		for i := 0; i < len(honest.frames[n].Body); i += step {
			w := newWorld(t)
			r := admit(t, w, testClientConfig(), func(k int, f Frame) Frame {
				if k == n {
					f.Body[i] ^= 0x40
				}
				return f
			})
			if len(w.granted) != 0 || r.grant != nil {
				t.Fatalf("byte %d of %v changed: admitted", i, honest.frames[n].Type)
			}
		}
	}
}

func TestDifferentSessionsBreakTheProof(t *testing.T) {
	for name, change := range map[string]func(*Binding){
		"exporter":   func(b *Binding) { b.Exporter[0] ^= 1 },
		"server key": func(b *Binding) { b.ServerKey = publicOf(testKey("other")) },
	} {
		w := newWorld(t)
		b := testBinding("one")
		change(&b)
		r := play(t, newTestClient(t, testClientConfig()), newTestServer(t, w, b), nil)
		if refusedWith(r.clientErr) != CodeWrongSecret || len(w.granted) != 0 {
			t.Errorf("another %s: %v", name, r.clientErr)
		}
	}
	// The same for services: M1 names the one that was meant.
	w := newWorld(t)
	w.service.ID = id.ID{7}
	cfg := testClientConfig()
	r := admit(t, w, cfg, func(n int, f Frame) Frame {
		if n == 0 {
			return encode(TypeDescriptorRequest, &descriptorRequest{Version: version, Service: w.service.ID[:]})
		}
		return f
	})
	if refusedWith(r.clientErr) != CodeWrongSecret {
		t.Errorf("another service: %v", r.clientErr)
	}
}

func TestServerRefusesBadA(t *testing.T) {
	for name, a := range badElements(Group2048) {
		w := newWorld(t)
		r := admit(t, w, testClientConfig(), func(n int, f Frame) Frame {
			if n != 4 {
				return f
			}
			var m proof
			if err := decode(f, &m); err != nil {
				t.Fatal(err)
			}
			m.A = a
			return encode(TypeProof, &m)
		})
		if !errors.Is(r.serverErr, ErrMalformed) || len(r.frames) != 5 {
			t.Errorf("A = %s: %v", name, r.serverErr)
		}
	}
}

// TestZeroADoesNotBypassTheSecret is the classic attack whole: with A = 0 the
// naive S is 0, and the attacker knows every input of M1.
func TestZeroADoesNotBypassTheSecret(t *testing.T) {
	w := newWorld(t)
	s := newTestServer(t, w, testBinding("one"))
	mustStep(t, s, encode(TypeDescriptorRequest, &descriptorRequest{Version: version, Service: testService[:]}))
	out := mustStep(t, s, encode(TypeStart, &start{SecretID: testSecretID}))
	var ch challenge
	if err := decode(out.Send[0], &ch); err != nil {
		t.Fatal(err)
	}
	p := Group2048.srp()
	for name, a := range map[string][]byte{"0": make([]byte, p.size), "N": p.nBytes} {
		binding := testBinding("one")
		tr := transcript{binding: &binding, group: p, secretID: testSecretID, salt: ch.Salt, a: a, b: ch.B, service: testService}
		kM := macKey(make([]byte, p.size))
		again := *s
		if _, err := again.Step(testNow, encode(TypeProof, &proof{A: a, PID: make([]byte, id.Size), M1: tr.clientProof(&kM)})); !errors.Is(err, ErrMalformed) {
			t.Errorf("A = %s: %v", name, err)
		}
	}
}

func TestClientRefusesBadB(t *testing.T) {
	for name, b := range badElements(Group2048) {
		w := newWorld(t)
		r := admit(t, w, testClientConfig(), func(n int, f Frame) Frame {
			if n != 3 {
				return f
			}
			return encode(TypeChallenge, &challenge{Salt: make([]byte, SaltSize), B: b})
		})
		if !errors.Is(r.clientErr, ErrMalformed) || len(r.frames) != 4 {
			t.Errorf("B = %s: %v", name, r.clientErr)
		}
	}
}

func TestBothMachinesAbortOnZeroU(t *testing.T) {
	p := *Group2048.srp()
	p.newHash = zeroSHA256
	binding := testBinding("one")
	tr := transcript{binding: &binding, group: &p, a: p.gPadded, b: p.gPadded}
	c := newTestClient(t, testClientConfig())
	if _, err := c.agree(&tr, []byte{1}); !errors.Is(err, errDegenerate) {
		t.Errorf("client: %v", err)
	}
	s := newTestServer(t, newWorld(t), binding)
	s.verifier = newVerifierOnce(t)
	if _, err := s.agree(&tr); !errors.Is(err, errDegenerate) {
		t.Errorf("server: %v", err)
	}
}

func mustStep(t testing.TB, s *Server, f Frame) ServerOutput {
	t.Helper()
	out, err := s.Step(testNow, f)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestMessagesOutOfOrderAreRefused offers every honest frame to both machines
// in every state but the one it belongs to.
func TestMessagesOutOfOrderAreRefused(t *testing.T) {
	w := newWorld(t)
	first := mustAdmit(t, w, testClientConfig())
	frames := first.frames
	cont := testClientConfig()
	cont.Session = &first.session
	frames = append(frames, mustAdmit(t, w, cont).frames[2]) // Continue
	if frames[len(frames)-1].Type != TypeContinue {
		t.Fatal("no Continue frame")
	}
	for at := range 10 { // how many honest frames came before
		for _, f := range frames {
			c, s := newTestClient(t, testClientConfig()), newTestServer(t, newWorld(t), testBinding("one"))
			var r run
			toClient := replayTo(t, c, s, at, &r)
			if toClient {
				if f.Type == r.frames[at].Type {
					continue
				}
				if _, err := c.Step(testNow, f); !errors.Is(err, ErrOrder) {
					t.Errorf("client took %v after %d frames: %v", f.Type, at, err)
				}
				if _, err := c.Step(testNow, f); !errors.Is(err, ErrOrder) {
					t.Errorf("client went on after an error: %v", err)
				}
				continue
			}
			if f.Type == r.frames[at].Type || f.Type == TypeContinue && r.frames[at].Type == TypeStart {
				continue
			}
			if out, err := s.Step(testNow, f); !errors.Is(err, ErrOrder) || len(out.Send) != 0 || !out.Done {
				t.Errorf("server took %v after %d frames: %v", f.Type, at, err)
			}
			if _, err := s.Step(testNow, f); !errors.Is(err, ErrOrder) {
				t.Errorf("server went on after an error: %v", err)
			}
		}
	}
}

// replayTo passes n frames between c and s and says whether the next one, the
// last in r.frames, is for the client.
func replayTo(t testing.TB, c *Client, s *Server, n int, r *run) (toClient bool) {
	t.Helper()
	next := c.Begin()
	for {
		r.frames = append(r.frames, next)
		if len(r.frames) > n {
			return toClient
		}
		if toClient {
			f, err := r.clientStep(c, next)
			if err != nil {
				t.Fatal(err)
			}
			if f != nil {
				next = *f
			}
		} else {
			next = mustStep(t, s, next).Send[0]
		}
		toClient = !toClient
	}
}

func TestForeignIdentityIsRefused(t *testing.T) {
	other := testKey("thief")
	for name, change := range map[string]func(*provision, *Binding){
		"signed by another key": func(m *provision, b *Binding) { m.Sig = enrolSignature(other, b, m.Request) },
		"another key and its signature": func(m *provision, b *Binding) {
			m.IDKey, m.Sig = publicOf(other), enrolSignature(other, b, m.Request)
		},
		"signature over another request": func(m *provision, b *Binding) { m.Sig = enrolSignature(testKey("peer"), b, []byte("x")) },
		"signature from another session": func(m *provision, _ *Binding) {
			b := testBinding("two")
			m.Sig = enrolSignature(testKey("peer"), &b, m.Request)
		},
		"signature for Continue": func(m *provision, b *Binding) {
			m.Sig = continueSignature(testKey("peer"), b, &resume{Ticket: m.Request}, testService, id.FromKey(m.IDKey))
		},
		"key of 31 bytes": func(m *provision, _ *Binding) { m.IDKey = m.IDKey[:31] },
		"no signature":    func(m *provision, _ *Binding) { m.Sig = nil },
	} {
		w := newWorld(t)
		cfg := testClientConfig()
		r := admit(t, w, cfg, func(n int, f Frame) Frame {
			if n != 6 {
				return f
			}
			var m provision
			if err := decode(f, &m); err != nil {
				t.Fatal(err)
			}
			change(&m, &cfg.Binding)
			return encode(TypeProvision, &m)
		})
		if !errors.Is(r.serverErr, ErrMalformed) || len(w.granted) != 0 {
			t.Errorf("%s: %v", name, r.serverErr)
		}
	}
}

func TestHookRefusalsReachTheClient(t *testing.T) {
	for name, c := range map[string]struct {
		err        error
		code       Code
		list       bool
		detail, at string
	}{
		"scope":        {err: &Refusal{Code: CodeScope, Detail: "tier:db"}, code: CodeScope, detail: "tier:db"},
		"wrapped":      {err: fmt.Errorf("x: %w", &Refusal{Code: CodeQuota}), code: CodeQuota},
		"busy":         {err: &Refusal{Code: CodeBusy, Other: "192.0.2.1:4500"}, code: CodeBusy, at: "192.0.2.1:4500"},
		"plain error":  {err: errors.New("disk full at /secret/path"), code: CodeInternal},
		"list":         {err: &Refusal{Code: CodeRevoked}, code: CodeRevoked, list: true},
		"wrong secret": {err: &Refusal{Code: CodeWrongSecret}, code: CodeInternal},
		"ticket":       {err: &Refusal{Code: CodeTicket}, code: CodeInternal},
		"no code":      {err: &Refusal{}, code: CodeInternal},
	} {
		w := newWorld(t)
		if c.list {
			w.list = func(Authenticated, []byte) ([]byte, error) { return nil, c.err }
		} else {
			w.provision = func(Authenticated, []byte) (Granted, error) { return Granted{}, c.err }
		}
		r := admit(t, w, testClientConfig(), nil)
		var got *Refusal
		if !errors.As(r.clientErr, &got) || got.Code != c.code || got.Detail != c.detail || got.Other != c.at {
			t.Errorf("%s: client got %v", name, r.clientErr)
		}
		if !errors.Is(r.cause, c.err) {
			t.Errorf("%s: the log says %v", name, r.cause)
		}
		if last := r.frames[len(r.frames)-1]; bytes.Contains(last.Body, []byte("disk")) {
			t.Errorf("%s: the peer learns the cause", name)
		}
	}
}

func TestBadGrantsBecomeInternalErrors(t *testing.T) {
	for name, g := range map[string]Granted{
		"too long":    {Bytes: make([]byte, limitGrant), Expires: testNow.Add(1)},
		"expired":     {Expires: testNow},
		"no expiry":   {},
		"far, far on": {Expires: time.UnixMilli(maxUnixMs + 1)},
	} {
		w := newWorld(t)
		w.provision = func(Authenticated, []byte) (Granted, error) { return g, nil }
		if r := admit(t, w, testClientConfig(), nil); refusedWith(r.clientErr) != CodeInternal {
			t.Errorf("%s: %v", name, r.clientErr)
		}
	}
	w := newWorld(t)
	w.list = func(Authenticated, []byte) ([]byte, error) { return make([]byte, limitListReply), nil }
	if r := admit(t, w, testClientConfig(), nil); refusedWith(r.clientErr) != CodeInternal {
		t.Errorf("long list: %v", r.clientErr)
	}
}

// TestClientBelievesOnlyTimelyRefusals: whoever has not proved to know the
// verifier cannot make a peer throw its secret or its ticket away.
func TestClientBelievesOnlyTimelyRefusals(t *testing.T) {
	early := []Code{CodeBusy, CodeClock, CodeServiceUnknown, CodeInternal}
	for at, more := range map[int][]Code{
		1: early, 3: early, 5: append([]Code{CodeWrongSecret}, early...),
		7: {CodeBusy, CodeScope, CodeExpiredSecret, CodeQuota, CodeRevoked, CodeClock, CodeServiceUnknown, CodeSource, CodeAddresses, CodeRequest, CodeInternal, CodeInternal + 1},
	} {
		for code := Code(1); code <= CodeInternal+1; code++ {
			r := admit(t, newWorld(t), testClientConfig(), func(n int, f Frame) Frame {
				if n == at {
					return (&Refusal{Code: code}).frame()
				}
				return f
			})
			if believed := refusedWith(r.clientErr) == code; believed != slices.Contains(more, code) {
				t.Errorf("frame %d: %v believed: %v", at, code, believed)
			}
		}
	}
}

func TestUnknownServiceIsRefused(t *testing.T) {
	w := newWorld(t)
	w.service.ID = id.ID{1}
	if r := admit(t, w, testClientConfig(), nil); refusedWith(r.clientErr) != CodeServiceUnknown {
		t.Fatal(r.clientErr)
	}
}

func TestRefuseShedsAtAnyPoint(t *testing.T) {
	c, s := newTestClient(t, testClientConfig()), newTestServer(t, newWorld(t), testBinding("one"))
	c.Begin()
	out := s.Refuse(&Refusal{Code: CodeBusy, Other: "[2001:db8::1]:4500"})
	_, err := c.Step(testNow, out.Send[0])
	if !out.Done || refusedWith(err) != CodeBusy {
		t.Fatalf("%+v, %v", out, err)
	}
	if want := "admission: refused: the super peer is busy; try again in a moment; another super peer is [2001:db8::1]:4500"; err.Error() != want {
		t.Fatalf("got %q", err)
	}
}

func TestMisconfigurationIsReported(t *testing.T) {
	for name, change := range map[string]func(*ClientConfig){
		"identity":   func(c *ClientConfig) { c.Identity = nil },
		"binding":    func(c *ClientConfig) { c.Binding = Binding{} },
		"check":      func(c *ClientConfig) { c.CheckDescriptor = nil },
		"no secret":  func(c *ClientConfig) { c.Secret = nil },
		"bad ID":     func(c *ClientConfig) { c.SecretID = "a:b" },
		"no ID":      func(c *ClientConfig) { c.SecretID = "" },
		"control ID": func(c *ClientConfig) { c.SecretID = "a\n" },
	} {
		cfg := testClientConfig()
		change(&cfg)
		if _, err := NewClient(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := NewServer(ServerConfig{Binding: testBinding("x")}); err == nil {
		t.Error("server without backend accepted")
	}
	if _, err := NewServer(ServerConfig{Backend: newWorld(t)}); err == nil {
		t.Error("server without binding accepted")
	}
	for name, change := range map[string]func(*Service){
		"group": func(s *Service) { s.Params.Group = 1024 }, "no ticket key": func(s *Service) { s.TicketKeys = nil },
		"long descriptor": func(s *Service) { s.Descriptor = make([]byte, maxDescriptor+1) },
	} {
		w := newWorld(t)
		change(&w.service)
		if r := admit(t, w, testClientConfig(), nil); refusedWith(r.clientErr) != CodeInternal || r.cause == nil {
			t.Errorf("service with bad %s: %v", name, r.clientErr)
		}
	}
	short := testClientConfig()
	short.Secret = []byte("too short")
	if r := admit(t, newWorld(t), short, nil); r.clientErr == nil || len(r.frames) != 2 {
		t.Errorf("short secret: %v", r.clientErr)
	}
}

func TestCallerCannotActOutOfTurn(t *testing.T) {
	c := newTestClient(t, testClientConfig())
	if _, err := c.Provision(nil); !errors.Is(err, ErrOrder) {
		t.Error("Provision before Accept")
	}
	if _, err := c.List(nil); !errors.Is(err, ErrOrder) {
		t.Error("List before Grant")
	}
	if _, ok := c.Session(); ok {
		t.Error("a session before Grant")
	}
	c, s := newTestClient(t, testClientConfig()), newTestServer(t, newWorld(t), testBinding("one"))
	var r run
	if toClient := replayTo(t, c, s, 5, &r); !toClient {
		t.Fatal("no Accept")
	}
	if _, err := c.Step(testNow, r.frames[5]); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Provision(make([]byte, limitProvision)); err == nil || errors.Is(err, ErrOrder) {
		t.Errorf("long request: %v", err)
	}
	if !c.ServerTime().Equal(testNow) {
		t.Errorf("ServerTime = %v", c.ServerTime())
	}
}

func TestWipeLeavesNoKeys(t *testing.T) {
	cfg := testClientConfig()
	c, s := newTestClient(t, cfg), newTestServer(t, newWorld(t), cfg.Binding)
	var r run
	replayTo(t, c, s, 8, &r)
	who, ok := s.Who()
	if !ok || who.Key != c.session.Key {
		t.Fatal("not authenticated")
	}
	c.Wipe()
	s.Wipe()
	if c.key != (Key{}) || c.session.Key != (Key{}) || c.cfg.Binding.Ratchet != (Key{}) ||
		s.who.Key != (Key{}) || s.cfg.Binding.Ratchet != (Key{}) || s.eph.b != nil {
		t.Error("keys left")
	}
	if _, ok := s.Who(); ok {
		t.Error("still authenticated")
	}
	if !bytes.Equal(cfg.Secret, testSecret) || testSecret[0] == 0 {
		t.Error("the borrowed secret was wiped")
	}
}

func TestSecretsAreRedacted(t *testing.T) {
	w := newWorld(t)
	cfg := testClientConfig()
	cfg.Binding.Ratchet = Key(bytes.Repeat([]byte{0xab}, 32))
	cfg.Secret = bytes.Repeat([]byte{0xab}, 32)
	key := cfg.Binding.Ratchet
	session := Session{Key: key, Ticket: bytes.Repeat([]byte{0xab}, 99)}
	c, s := newTestClient(t, cfg), newTestServer(t, w, cfg.Binding)
	c.key, s.who.Key, c.session = key, key, session
	verifier := Verifier{SecretID: "x", V: bytes.Repeat([]byte{0xab}, 256), Salt: bytes.Repeat([]byte{0xab}, 16)}
	for _, v := range []any{key, &key, session, &session, verifier, &verifier, cfg, &cfg, cfg.Binding, c, s,
		Authenticated{Key: key}, Ticket{Key: key}, Service{FakeKey: key, TicketKeys: []Key{key}}, ServerConfig{Binding: cfg.Binding}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%d", "%q"} {
			got := fmt.Sprintf(verb, v)
			for _, leak := range []string{"abab", "ABAB", "171 171", "171, 171", "0xab, 0xab", `\xab\xab`} {
				if bytes.Contains([]byte(got), []byte(leak)) {
					t.Errorf("%s of %T shows %q", verb, v, got)
				}
			}
		}
	}
	if got := key.LogValue().String() + session.LogValue().String() + verifier.LogValue().String(); bytes.Contains([]byte(got), []byte("abab")) {
		t.Errorf("LogValue shows %q", got)
	}
}
