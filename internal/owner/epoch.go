package owner

import (
	"fmt"
	"io"
	"path/filepath"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/seal"
	"icvpn/internal/service"
)

// DefaultEpochDelay is how long before it comes into force a new group key is
// announced: machines look for news every 5 to 10 minutes, and then have half of
// what is left to fetch it, each at a time of its own.
const DefaultEpochDelay = 30 * time.Minute

// minEpochDelay lets every machine that runs hear of it in time.
const minEpochDelay = 15 * time.Minute

// maxEpochDelay keeps a typing error from blocking the next change for months.
const maxEpochDelay = 7 * 24 * time.Hour

// News is what the owner has signed for super peers that run: a new group key, a
// policy, or both.
type News struct {
	ID     id.ID
	Name   string
	Record service.EpochRecord // of the new key; zero if there is none
	Secret []byte              // owner.secret from now on
	Update service.Update      // for a running super peer
	Policy []byte              // YAML as signed, if it is new
}

// news is what f has signed. Policy says whether that is among it.
func (f *ownerFile) news(trust *service.Trust, record service.EpochRecord, policy bool) *News {
	n := &News{ID: trust.Service, Name: trust.Descriptor.Name, Record: record, Secret: f.encode(), Update: service.NewUpdate(f.HandOver)}
	if policy {
		n.Policy = f.HandOver.Policy.Body
	}
	return n
}

// NextEpoch signs that the group key changes: after a delay, or at once with a
// delay of 0, which is for emergencies.
func NextEpoch(secret []byte, delay time.Duration, now time.Time) (*News, error) {
	f, err := parseOwner(secret)
	if err != nil {
		return nil, err
	}
	e, trust, err := f.nextEpoch(delay, now)
	if err != nil {
		return nil, err
	}
	return f.news(trust, e.Newest(), false), nil
}

// nextEpoch puts the next epoch into f, and M of the oldest one still in use:
// hand-overs made from now on open nothing of before.
func (f *ownerFile) nextEpoch(delay time.Duration, now time.Time) (*service.Epochs, *service.Trust, error) {
	h := &f.HandOver
	trust, err := f.trust(now)
	if err != nil {
		return nil, nil, err
	}
	old, err := f.epochs(trust)
	if err != nil {
		return nil, nil, err
	}
	grace := service.DefaultGrace
	if delay == 0 {
		grace = 0
	} else if delay < minEpochDelay || delay > maxEpochDelay {
		return nil, nil, fmt.Errorf("owner: a new group key comes into force after %v to %v, or at once; %v is neither", minEpochDelay, maxEpochDelay, delay)
	}
	next, err := service.NextEpochs(old, trust.Service, trust.Policy.Sequence, now, now.Add(delay), grace)
	if err != nil {
		return nil, nil, err
	}
	if err := f.advance(next.Oldest(now)); err != nil {
		return nil, nil, err
	}
	h.Epochs, err = service.NewEpochs(next, f.owners())
	return &next, trust, err
}

// trust returns the chain with the policy that the owner has signed last.
func (f *ownerFile) trust(now time.Time) (*service.Trust, error) {
	h := &f.HandOver
	trust, err := service.Open(h.Service.Documents, h.Service.ID, 0, now)
	if err != nil {
		return nil, err
	}
	return trust.WithPolicy(h.Policy, now)
}

// epochs returns what was announced so far, nil for nothing.
func (f *ownerFile) epochs(trust *service.Trust) (*service.Epochs, error) {
	if len(f.HandOver.Epochs.Body) == 0 {
		return nil, nil
	}
	return trust.OpenEpochs(f.HandOver.Epochs)
}

// advance goes on to M of an epoch.
func (f *ownerFile) advance(to uint32) error {
	m := &f.HandOver.Service
	master, err := seal.ParseMasterKey(m.Epoch, m.Master)
	if err != nil {
		return err
	}
	defer master.Wipe()
	for master.Epoch() < to {
		master.Next()
	}
	clear(m.Master)
	m.Epoch, m.Master = master.Epoch(), master.Bytes()
	return nil
}

// fileUpdate is what the owner gives to a running super peer.
const fileUpdate = "update"

// Write puts the news into the directory of their service, last owner.secret.
func (n *News) Write(dir string) error {
	if n.Policy != nil {
		if err := replaceFile(filepath.Join(dir, filePolicy), 0o644, n.Policy); err != nil {
			return err
		}
	}
	if err := replaceFile(filepath.Join(dir, fileUpdate), 0o644, n.Update.Encode()); err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, fileSecret), 0o600, n.Secret)
}

// Explain prints what changes and what to do next.
func (n *News) Explain(w io.Writer, dir string) {
	fmt.Fprintf(w, "Service %s (%s), ", n.Name, n.ID)
	switch {
	case n.Record.Number == 0:
		fmt.Fprintf(w, "a new policy.\n")
	case n.Record.Grace > 0:
		fmt.Fprintf(w, "epoch %d from %s, the one before until %s.\n", n.Record.Number, utc(n.Record.Activates()), utc(n.Record.Settled()))
	default:
		fmt.Fprintf(w, "epoch %d at once.\n", n.Record.Number)
	}
	fmt.Fprintf(w, "\nNext, on one super peer that runs (the file is no secret):\n  icvpn super update %s\n\n", filepath.Join(dir, fileUpdate))
	fmt.Fprintf(w, "It hands the news to the other super peers, and they to the machines: nothing needs a restart.\n")
}

func utc(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
