package superpeer

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"testing"
	"time"

	"icvpn/internal/ledger"
	"icvpn/internal/seal"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// epochWorld is a service whose owner signs epochs, and what super peers of it
// make of them.
type epochWorld struct {
	t     *testing.T
	trust *service.Trust
	h     service.HandOver
	owner ed25519.PrivateKey
}

func newEpochWorld(t *testing.T) *epochWorld {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	owners := []ed25519.PrivateKey{key}
	now := time.Now()
	root, err := service.NewRoot("shop", owners, 1, now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	d := service.Descriptor{Service: service.RootID(root), Seq: 1, Expires: now.Add(time.Hour).Unix(), Name: "shop", SuperPeers: []service.SuperPeer{{Key: key.Public().(ed25519.PublicKey), Endpoints: []string{"192.0.2.1:4500"}}}}
	s, err := service.NewDescriptor(d, owners)
	if err != nil {
		t.Fatal(err)
	}
	w := &epochWorld{t: t, owner: key}
	if w.trust, err = service.Open(service.Documents{Roots: []service.Signed{root}, Descriptor: s}, d.Service, 0, now); err != nil {
		t.Fatal(err)
	}
	w.h.Service = service.Membership{ID: d.Service, Epoch: 1, Master: bytes.Repeat([]byte{9}, 32)}
	return w
}

// sign returns an owners' document.
func (w *epochWorld) sign(seq uint64, records ...service.EpochRecord) service.Signed {
	w.t.Helper()
	s, err := service.NewEpochs(service.Epochs{Service: w.h.Service.ID, Seq: seq, Issued: 1, Records: records}, []ed25519.PrivateKey{w.owner})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// open is a super peer that starts on what home has.
func (w *epochWorld) open(home ledger.Home, now time.Time) (*epochs, error) {
	s := &SuperPeer{cfg: Config{HandOver: w.h, Ledger: home}}
	return s.openEpochs(seal.NewRing(seal.Config{Service: w.h.Service.ID}), w.trust, now)
}

func (w *epochWorld) mustOpen(home ledger.Home, now time.Time) *epochs {
	w.t.Helper()
	e, err := w.open(home, now)
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

func (w *epochWorld) learn(e *epochs, s service.Signed, now time.Time) bool {
	w.t.Helper()
	newer, err := e.learn(w.trust, wire.Marshal(s), now)
	if err != nil {
		w.t.Fatal(err)
	}
	return newer
}

func record(number uint32, at time.Time, grace time.Duration) service.EpochRecord {
	return service.EpochRecord{Number: number, ActivateAt: at.Unix(), Grace: uint32(grace / time.Second)}
}

// TestSuperPeersThatMissedEpochsAgreeWithTheOthers: whether they were down with
// their disk, lost it, or are new, and whichever the document they hear of first.
func TestSuperPeersThatMissedEpochsAgreeWithTheOthers(t *testing.T) {
	w := newEpochWorld(t)
	t0 := time.Unix(1_800_000_000, 0)
	at := func(h int) time.Time { return t0.Add(time.Duration(h) * time.Hour) }
	there, late := new(ledger.Memory), new(ledger.Memory)
	running := w.mustOpen(there, t0)
	w.learn(w.mustOpen(late, t0), w.sign(1, record(2, at(1), service.DefaultGrace)), t0)
	docs := []service.Signed{
		w.sign(1, record(2, at(1), service.DefaultGrace)),
		w.sign(2, record(2, at(1), service.DefaultGrace), record(3, at(2), service.DefaultGrace)),
		w.sign(3, record(3, at(2), service.DefaultGrace), record(4, at(3), service.DefaultGrace)),
	}
	for i, s := range docs {
		now := at(i).Add(time.Minute)
		if !w.learn(running, s, now) {
			t.Fatalf("document %d is no news", i+1)
		}
		if _, err := running.settle(now); err != nil {
			t.Fatal(err)
		}
	}
	now := at(3).Add(time.Minute) // epoch 4 is in force, 3 in its grace
	again := w.mustOpen(late, now)
	fresh := w.mustOpen(new(ledger.Memory), now)
	if _, err := running.settle(now); err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]*epochs{"was down": again, "lost its disk": fresh, "restarted": w.mustOpen(there, now), "running": running} {
		if name != "restarted" && name != "running" && !w.learn(e, docs[2], now) {
			t.Errorf("%s: no news", name)
		}
		if _, err := e.settle(now); err != nil {
			t.Fatal(err)
		}
		if e.ring.Current(now) != 4 || !e.ratchet.Equal(running.ratchet) {
			t.Errorf("%s: epoch %d, %v", name, e.ring.Current(now), e.ratchet)
		}
		for _, n := range []uint32{3, 4} {
			a, okA := e.ring.Key(now, n)
			b, okB := running.ring.Key(now, n)
			if !okA || !okB || !a.Equal(b) {
				t.Errorf("%s: key of epoch %d: %v, %v", name, n, okA, okB)
			}
		}
	}
}

// TestNothingOfAnEpochThatHasEndedIsOnDisk: neither M of the one before the newest,
// nor K of one whose grace is over.
func TestNothingOfAnEpochThatHasEndedIsOnDisk(t *testing.T) {
	w := newEpochWorld(t)
	t0 := time.Unix(1_800_000_000, 0)
	home := new(ledger.Memory)
	e := w.mustOpen(home, t0)
	k1, _ := e.ring.Key(t0, 1)
	has := func(secret []byte) bool {
		b, err := home.Get(fileEpochs)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Contains(b, secret)
	}
	w.learn(e, w.sign(1, record(2, t0.Add(time.Hour), service.DefaultGrace)), t0)
	if has(w.h.Service.Master) || !has(k1.Bytes()) {
		t.Error("announced: M of before is to be gone, its member key is in use")
	}
	end := t0.Add(time.Hour + service.DefaultGrace)
	next, err := e.settle(t0.Add(time.Hour))
	if err != nil || !next.Equal(end) || !has(k1.Bytes()) {
		t.Errorf("in its grace: look again at %v, %v", next, err)
	}
	if next, err := e.settle(end); err != nil || !next.IsZero() || has(k1.Bytes()) {
		t.Errorf("after it: look again at %v, %v", next, err)
	}
	if _, ok := e.ring.Key(end, 1); ok {
		t.Error("the ring still opens epoch 1")
	}
}

func TestEpochsThatTheOwnersDidNotSignOrTookBackAreRefused(t *testing.T) {
	w := newEpochWorld(t)
	t0 := time.Unix(1_800_000_000, 0)
	e := w.mustOpen(new(ledger.Memory), t0)
	newest := w.sign(2, record(2, t0.Add(-time.Hour), 0), record(3, t0, 0))
	w.learn(e, newest, t0)
	for name, old := range map[string]service.Signed{
		"the same":                      newest,
		"an older one":                  w.sign(1, record(2, t0.Add(time.Hour), 0)),
		"a later one that takes 3 back": w.sign(3, record(2, t0.Add(time.Hour), 0)),
	} {
		if w.learn(e, old, t0) || e.ring.Current(t0) != 3 {
			t.Errorf("%s is news", name)
		}
	}
	forged := w.sign(4, record(4, t0, 0))
	forged.Sigs[0].Sig[0] ^= 1
	if _, err := e.learn(w.trust, wire.Marshal(forged), t0); err == nil {
		t.Error("a forged document was taken")
	}
	if _, err := e.learn(w.trust, wire.Marshal(w.sign(4, record(1<<31, t0, 0))), t0); !errors.Is(err, seal.ErrEpochFar) || e.known.Load().seq() != 2 {
		t.Errorf("an epoch out of reach: %v", err)
	}
}

// fullDisk takes no more documents.
type fullDisk struct{ *ledger.Memory }

func (fullDisk) Put(string, []byte) error { return fs.ErrPermission }

// TestEpochThatIsNotOnDiskIsNotInForce: after a restart it would be unknown who
// has which key.
func TestEpochThatIsNotOnDiskIsNotInForce(t *testing.T) {
	w := newEpochWorld(t)
	t0 := time.Unix(1_800_000_000, 0)
	e := w.mustOpen(fullDisk{new(ledger.Memory)}, t0)
	if newer, err := e.learn(w.trust, wire.Marshal(w.sign(1, record(2, t0, 0))), t0); newer || err == nil || e.ring.Current(t0) != 1 || e.ratchet.Epoch() != 1 {
		t.Errorf("%v, %v, at %v", newer, err, e.ratchet)
	}
}

func TestHandOverWhoseKeyNobodySignedForIsRefused(t *testing.T) {
	w := newEpochWorld(t)
	w.h.Service.Epoch = 3
	if _, err := w.open(new(ledger.Memory), time.Now()); err == nil {
		t.Error("M of epoch 3 without a document is accepted")
	}
	w.h.Epochs = w.sign(1, record(3, time.Unix(1000, 0), 0), record(4, time.Unix(2000, 0), 0))
	if e, err := w.open(new(ledger.Memory), time.Now()); err != nil || e.ring.Current(time.Now()) != 4 {
		t.Errorf("with one: %v", err)
	}
}

// TestNewestKeyWaitsForThePolicyThatSaysWhoIsOut: a super peer that does not know
// it yet would hand the key to whom it is kept from.
func TestNewestKeyWaitsForThePolicyThatSaysWhoIsOut(t *testing.T) {
	w := newEpochWorld(t)
	now := time.Now()
	e := w.mustOpen(new(ledger.Memory), now)
	policy := func(seq uint64) service.Signed {
		s, err := service.NewPolicy(service.Policy{Sequence: seq, Issued: now, Expires: now.Add(time.Hour)}, w.h.Service.ID, []ed25519.PrivateKey{w.owner})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	a := &authority{tier: &tier{ring: e.ring}, ring: e.ring, epochs: e}
	inForce := func(seq uint64) {
		trust, err := w.trust.WithPolicy(policy(seq), now)
		if err != nil {
			t.Fatal(err)
		}
		a.tier.standing.Store(newStanding(trust, service.Documents{}, policy(seq), w.owner.Public().(ed25519.PublicKey)))
	}
	inForce(1)
	signed, err := service.NewEpochs(service.Epochs{Service: w.h.Service.ID, Seq: 1, Policy: 2, Records: []service.EpochRecord{record(2, now.Add(time.Hour), service.DefaultGrace)}}, []ed25519.PrivateKey{w.owner})
	if err != nil {
		t.Fatal(err)
	}
	w.learn(e, signed, now)
	if g, err := a.groupKeys(now); err != nil || g.next != 0 || len(g.others) != 0 || g.epoch != 1 {
		t.Errorf("under the policy of before: next %d, %d keys, %v", g.next, len(g.others), err)
	}
	inForce(2)
	if g, err := a.groupKeys(now); err != nil || g.next != 2 || len(g.others) != 1 {
		t.Errorf("under the new one: next %d, %d keys, %v", g.next, len(g.others), err)
	}
	inForce(1)
	if err := a.mayHandOut(now); err != nil {
		t.Errorf("before the epoch is in force: %v", err)
	}
	later := now.Add(2 * time.Hour)
	if a.mayHandOut(later) == nil {
		t.Error("machines are admitted to an epoch, and nobody knows who is to be kept from it")
	}
	if inForce(2); a.mayHandOut(later) != nil {
		t.Error("machines are refused under the new policy")
	}
}
