package owner

import (
	"fmt"
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

// Epoch is a new group key that the owner has announced.
type Epoch struct {
	ID     id.ID
	Name   string
	Record service.EpochRecord
	Secret []byte         // owner.secret from now on
	Update service.Update // for a running super peer
	Policy []byte         // YAML as signed, if it is new
}

// NextEpoch signs that the group key changes: after a delay, or at once with a
// delay of 0, which is for emergencies.
func NextEpoch(secret []byte, delay time.Duration, now time.Time) (*Epoch, error) {
	f, err := parseOwner(secret)
	if err != nil {
		return nil, err
	}
	e, trust, err := f.nextEpoch(delay, now)
	if err != nil {
		return nil, err
	}
	return &Epoch{
		ID: trust.Service, Name: trust.Descriptor.Name, Record: e.Newest(), Secret: f.encode(), Update: service.NewUpdate(f.HandOver),
	}, nil
}

// nextEpoch puts the next epoch into f, and M of the oldest one still in use:
// hand-overs made from now on open nothing of before.
func (f *ownerFile) nextEpoch(delay time.Duration, now time.Time) (*service.Epochs, *service.Trust, error) {
	h := &f.HandOver
	trust, err := service.Open(h.Service.Documents, h.Service.ID, 0, now)
	if err == nil {
		trust, err = trust.WithPolicy(h.Policy, now)
	}
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
