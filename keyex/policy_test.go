package keyex

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"icvpn/internal/id"
)

func TestCredentialCacheEnds(t *testing.T) {
	calls := 0
	var expires time.Time
	c := newCredentials(func(_ time.Time, cred []byte, _ uint32) (Peer, error) {
		calls++
		p, err := verifyTestCredential(time.Time{}, cred, 0)
		p.Expires = expires
		return p, err
	})
	n := newNode(t, "alpha", 1)
	ask := func(now time.Time, cred []byte, e uint32, want int) {
		t.Helper()
		if _, err := c.peer(now, cred, e); err != nil || calls != want {
			t.Errorf("VerifyCred called %d times, want %d (%v)", calls, want, err)
		}
	}
	now := testEpoch
	ask(now, n.cred, 7, 1)
	ask(now, n.cred, 7, 1)
	ask(now, n.cred, 8, 2)
	ask(now.Add(credentialLife), n.cred, 7, 3)
	c.known.clear()
	expires = now.Add(10 * time.Second)
	ask(now, n.cred, 7, 4)
	ask(now.Add(9*time.Second), n.cred, 7, 4)
	ask(now.Add(10*time.Second), n.cred, 7, 5)
	if _, err := c.peer(now, flip(n.cred, 3), 7); err == nil {
		t.Error("bad credential accepted")
	}
	c.verify = func(time.Time, []byte, uint32) (Peer, error) {
		return Peer{PID: id.Hash("x"), Key: n.cfg.Key.Public().(edPub)}, nil
	}
	if _, err := c.peer(now, []byte("x"), 7); !errors.Is(err, errForeignKey) {
		t.Errorf("a key that does not hash to the PID: %v", err)
	}
	c.verify = verifyTestCredential
	for i := range maxCredentials + 10 {
		m := newNode(t, "gamma", 3)
		ask2, err := c.peer(now, testCredential(authority, m.cfg.Key.Public().(edPub), 100+i%500), uint32(i))
		if err != nil || ask2.PID != m.PID() {
			t.Fatal(err)
		}
	}
	if c.known.len() > maxCredentials {
		t.Errorf("%d credentials remembered", c.known.len())
	}
}

func TestRevocationActsAtOnceAfterSetPolicy(t *testing.T) {
	w, a, b := twoNodes(t)
	w.initiate(a, b)
	w.run(time.Second)
	a.only(t)
	revoked := false
	b.Machine.creds.verify = func(now time.Time, cred []byte, e uint32) (Peer, error) {
		if revoked {
			return Peer{}, errors.New("revoked")
		}
		return verifyTestCredential(now, cred, e)
	}
	revoked = true
	if err := b.SetPolicy([]Group{GroupHybrid}, []Suite{1}); err != nil {
		t.Fatal(err)
	}
	w.initiate(a, b)
	w.run(time.Minute)
	wantFailure(t, a, ReasonIncomplete)
	b.only(t)
}

// A choice that policy no longer allows by the time M3 comes is not honoured.
func TestPolicyChangeBetweenM2AndM3(t *testing.T) {
	w, a, b := twoNodes(t, withGroups(GroupHybrid, GroupX25519))
	b.SetPolicy([]Group{GroupX25519}, []Suite{1})
	changed := false
	w.bend = func(p packet) []packet {
		if p.msg() == msgShareA && !changed {
			changed = true
			if err := b.SetPolicy([]Group{GroupHybrid}, []Suite{1}); err != nil {
				t.Fatal(err)
			}
		}
		return []packet{p}
	}
	w.initiate(a, b)
	w.run(time.Minute)
	if r := a.only(t); r.Group != GroupHybrid || !slices.Contains(b.drops, DropNoCommon) {
		t.Errorf("agreed on %v", r.Group)
	}
}

func TestNewRefusesBadConfig(t *testing.T) {
	good := newNode(t, "alpha", 1).cfg
	for name, f := range map[string]func(*Config){
		"key":              func(c *Config) { c.Key = nil },
		"credential":       func(c *Config) { c.Credential = nil },
		"no suites":        func(c *Config) { c.Suites = nil },
		"seven suites":     func(c *Config) { c.Suites = []Suite{1, 2, 3, 4, 5, 6, 7} },
		"unknown suite":    func(c *Config) { c.Suites = []Suite{9} },
		"unknown group":    func(c *Config) { c.Groups = []Group{9} },
		"group twice":      func(c *Config) { c.Groups = []Group{1, 1} },
		"five groups":      func(c *Config) { c.Groups = []Group{1, 2, 3, 4, 5} },
		"empty group list": func(c *Config) { c.Groups = []Group{} },
	} {
		c := good
		f(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestUnauthorisedPairIsRefusedSigned(t *testing.T) {
	w, a, b := twoNodes(t)
	b.deny = errors.New("web may not reach db")
	w.initiate(a, b)
	w.run(time.Second)
	f := wantFailure(t, a, ReasonRefused)
	if f.Status != StatusNotAllowed || !strings.Contains(f.Error(), "policy") {
		t.Errorf("failure %v", f)
	}
	if len(b.done) != 0 || b.answers.len() != 0 {
		t.Error("a refused pair left something behind")
	}
	m4 := w.messages(msgShareB)
	n := len(b.sent)
	for _, p := range w.messages(msgShareA) {
		w.deliver(p)
	}
	if len(b.sent) != n+1 || !bytes.Equal(b.sent[n].Payload, m4[0].Payload) {
		t.Error("a repeated M3 got another refusal")
	}
}

func TestOwnPolicyStopsTheInitiator(t *testing.T) {
	w, a, b := twoNodes(t)
	a.deny = errors.New("db is off limits")
	w.initiate(a, b)
	w.run(time.Second)
	if f := wantFailure(t, a, ReasonNotAllowed); !errors.Is(f, a.deny) {
		t.Errorf("failure %v does not say why", f)
	}
}

func TestForeignCredentialIsSilence(t *testing.T) {
	w, a, b := twoNodes(t)
	stranger := newNode(t, "stranger", 9)
	for name, cred := range map[string][]byte{
		"another authority": testCredential(stranger.cfg.Key, a.cfg.Key.Public().(edPub), 300),
		"another peer":      stranger.cred,
		"one byte off":      flip(a.cred, 40),
	} {
		t.Run(name, func(t *testing.T) {
			a.cred = cred
			a.failed, b.drops = nil, nil
			sent := len(w.messages(msgShareB))
			w.initiate(a, b)
			w.run(time.Minute)
			wantFailure(t, a, ReasonIncomplete)
			if len(w.messages(msgShareB)) != sent || len(b.done) != 0 || !slices.Contains(b.drops, DropCredential) {
				t.Errorf("drops %v", b.drops)
			}
		})
	}
}
