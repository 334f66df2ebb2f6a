package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/admission"
	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/service"
)

func TestJoinRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		for name, tc := range map[string]struct {
			change func(*JoinConfig)
			code   admission.Code
			want   string
		}{
			"wrong secret":   {func(c *JoinConfig) { c.Token.Secret = []byte("0123456789abcdef") }, admission.CodeWrongSecret, "192.0.2."},
			"unknown secret": {func(c *JoinConfig) { c.Token.SecretID = "web-00000000" }, admission.CodeWrongSecret, "192.0.2."},
			"label out of scope": {func(c *JoinConfig) { c.Labels = map[string]string{"role": "db"} },
				admission.CodeScope, "role=db"},
			"unknown label": {func(c *JoinConfig) { c.Labels = map[string]string{"zone": "eu"} }, admission.CodeScope, "zone=eu"},
		} {
			cfg := w.joinConfig("web", "web-1", newIdentity(t))
			tc.change(&cfg)
			_, err := Join(w.ctx, cfg)
			var refused *RefusedError
			if !errors.As(err, &refused) || refused.Refusal.Code != tc.code || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestJoinTriesTheOtherSuperPeersAndSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		cfg := w.joinConfig("web", "web-1", newIdentity(t))
		// The first is down, the second has another key than the token says.
		w.supers[0].kill()
		pub, _, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		good := cfg.Token.SuperPeers
		cfg.Token.SuperPeers = append(good[:0:0], good...)
		for i := range cfg.Token.SuperPeers {
			cfg.Token.SuperPeers[i].Key = pub
		}
		var log bytes.Buffer
		cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		_, err = Join(w.ctx, cfg)
		if said := log.String(); strings.Count(said, "did not admit us") != 2 || strings.Count(said, "trying the next") != 1 {
			t.Errorf("two super peers failed, one of them has a next; the log:\n%s", said)
		}
		var un *UnreachableError
		if !errors.As(err, &un) || len(un.Failures) != 2 || !strings.Contains(err.Error(), "refused") || !strings.Contains(err.Error(), "SHA256:") {
			t.Errorf("error %v, want both super peers and why", err)
		}
		cfg.Token.SuperPeers = good
		if m, err := Join(w.ctx, cfg); err != nil || m.SuperPeer != w.supers[1].endpoint {
			t.Errorf("join with one super peer down: %v", err)
		}
	})
}

func TestJoinRefusesAClockThatIsADayOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, off := range []time.Duration{24 * time.Hour, -24 * time.Hour} {
			a := &admittance{endpoint: "192.0.2.1:4500", m: &Membership{}, heard: time.Now(), cfg: JoinConfig{}}
			err := a.learnClock(time.Now().Add(off))
			var ce *ClockError
			if !errors.As(err, &ce) || !strings.Contains(err.Error(), "24h0m0s") || !strings.Contains(err.Error(), "chronyc") {
				t.Errorf("offset %v: %v", off, err)
			}
			if new(JoinConfig).final(err) {
				t.Error("one super peer's clock is the last word")
			}
		}
	})
}

// A super peer that says it is later than it is must not get our signature for
// then; one that is late harms nobody.
func TestClaimsAreNotOfTheFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for off, ok := range map[time.Duration]bool{
			59 * time.Minute: false, 5 * time.Minute: false, 4 * time.Minute: true, 0: true, -59 * time.Minute: true,
		} {
			a := &admittance{m: &Membership{}, heard: time.Now(), cfg: JoinConfig{Log: slog.New(slog.DiscardHandler)}}
			if err := a.learnClock(time.Now().Add(off)); (err == nil) != ok {
				t.Errorf("%v ahead of us: %v", off, err)
			}
		}
	})
}

// TestJoinOfAnUnacceptableServiceLeavesNoTrace: whoever cannot use the service's
// addresses must not be admitted first, and listed until its lease ends.
func TestJoinOfAnUnacceptableServiceLeavesNoTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		cfg := w.joinConfig("web", "web-1", newIdentity(t))
		collision := errors.New("10.42.0.0/16 is taken")
		cfg.Accept = func(d *service.Descriptor) error {
			if d.Prefix4 != "10.42.0.0/16" {
				t.Errorf("prefix %s", d.Prefix4)
			}
			return collision
		}
		if _, err := Join(w.ctx, cfg); err != collision {
			t.Errorf("error %v, want what Accept said", err)
		}
		for _, s := range w.supers {
			if peers, err := s.sp.Peers(w.ctx); err != nil || len(peers) != 0 {
				t.Errorf("%s lists %v, %v", s.endpoint, peers, err)
			}
		}
		cfg.Accept = func(*service.Descriptor) error { return nil }
		if _, err := Join(w.ctx, cfg); err != nil {
			t.Error(err)
		}
	})
}

func TestJoinRefusesARolledBackDescriptor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		cfg := w.joinConfig("web", "web-1", newIdentity(t))
		cfg.MinSeq = 2
		if _, err := Join(w.ctx, cfg); err == nil || !strings.Contains(err.Error(), "rolled back") {
			t.Errorf("error %v, want a rollback", err)
		}
	})
}

func TestJoinRefusesAnotherService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, other := newWorld(t, 1, ""), newWorld(t, 1, "")
		cfg := w.joinConfig("web", "web-1", newIdentity(t))
		cfg.Dial = other.dial // the same addresses lead to another service
		if _, err := Join(w.ctx, cfg); err == nil {
			t.Error("joined a service that the token is not for")
		}
	})
}

func TestJoinRefusesARolledBackPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		cfg := w.joinConfig("web", "web-1", newIdentity(t))
		cfg.MinPolicy = 2
		if _, err := Join(w.ctx, cfg); err == nil || !strings.Contains(err.Error(), "rolled back") {
			t.Errorf("error %v, want a rollback", err)
		}
	})
}

// TestOneSuperPeersRefusalIsNotBelieved: a super peer that knows no secret
// refuses everybody, and the other admits.
func TestOneSuperPeersRefusalIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		w.supers[0].kill()
		w.change = func(h *service.HandOver) { h.Secrets = nil }
		w.startSuper(0, new(ledger.Memory))
		for range 6 { // whoever is asked first
			m, err := Join(w.ctx, w.joinConfig("web", "web-1", newIdentity(t)))
			if err != nil || m.SuperPeer != w.supers[1].endpoint {
				t.Fatalf("%v", err)
			}
		}
		w.supers[1].kill() // nobody else is left: now it counts
		_, err := Join(w.ctx, w.joinConfig("web", "web-1", newIdentity(t)))
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Refusal.Code != admission.CodeWrongSecret {
			t.Errorf("the only super peer's refusal: %v", err)
		}
	})
}

func TestJoinRefusesAnOlderRootChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		cfg := w.joinConfig("web", "web-1", newIdentity(t))
		cfg.MinRoot = 2
		if _, err := Join(w.ctx, cfg); err == nil || !strings.Contains(err.Error(), "root document has sequence number 1, 2 is known") {
			t.Errorf("root chain of before: %v", err)
		}
	})
}

// TestJoinDialsAgainAfterASuperPeerThatHung: connections made ahead have been cut
// by then.
func TestJoinDialsAgainAfterASuperPeerThatHung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		w.supers[0].kill()
		cfg := w.joinConfig("web", "web-1", newIdentity(t))
		cfg.Prefer = w.supers[0].endpoint // asked first
		cfg.Dial = func(ctx context.Context, endpoint string) (net.Conn, error) {
			if endpoint == w.supers[0].endpoint { // takes the connection and says nothing
				near, _ := net.Pipe()
				return near, nil
			}
			return w.dial(ctx, endpoint)
		}
		if m, err := Join(w.ctx, cfg); err != nil || m.SuperPeer != w.supers[1].endpoint {
			t.Errorf("%v", err)
		}
	})
}

// TestOnlyTheIssuerSaysThatThereIsAClone: others may say it of any machine, and
// two that lie together must not end its join.
func TestOnlyTheIssuerSaysThatThereIsAClone(t *testing.T) {
	says := func(by id.ID) error {
		return &RefusedError{By: by, Refusal: &admission.Refusal{Code: admission.CodeClone}}
	}
	issuer, liar := id.ID{1}, id.ID{2}
	for name, tc := range map[string]struct {
		kept  *Kept
		by    id.ID
		final bool
	}{
		"issuer of what we keep":     {&Kept{Issuer: issuer}, issuer, true},
		"another":                    {&Kept{Issuer: issuer}, liar, false},
		"at the first join":          {nil, liar, false},
		"after a restart":            {&Kept{}, liar, false},
		"after a restart, no key":    {&Kept{}, id.ID{}, false},
		"without a key, with issuer": {&Kept{Issuer: issuer}, id.ID{}, false},
	} {
		if got := (&JoinConfig{Kept: tc.kept}).final(says(tc.by)); got != tc.final {
			t.Errorf("%s: final %v", name, got)
		}
	}
}

func TestBusySuperPeerSendsElsewhere(t *testing.T) {
	token := service.Token{SuperPeers: []service.TokenSuperPeer{{Endpoint: "a:1"}, {Endpoint: "b:1"}}}
	busy := func(other string) error {
		return &RefusedError{SuperPeer: "a:1", Refusal: &admission.Refusal{Code: admission.CodeBusy, Other: other}}
	}
	for name, tc := range map[string]struct {
		err error
		ok  bool
	}{
		"to another of the token": {busy("b:1"), true},
		"to itself":               {busy("a:1"), false},
		"to a stranger":           {busy("c:1"), false},
		"nowhere":                 {busy(""), false},
		"not busy":                {&RefusedError{Refusal: &admission.Refusal{Code: admission.CodeScope, Other: "b:1"}}, false},
		"no refusal":              {net.ErrClosed, false},
		"admitted":                {nil, false},
	} {
		if got, ok := elsewhere(token, "a:1", tc.err); ok != tc.ok || ok && got != "b:1" {
			t.Errorf("%s: %q, %v", name, got, ok)
		}
	}
}
