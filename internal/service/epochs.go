package service

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// FirstEpoch is in force since ever; no document speaks of it.
const FirstEpoch = 1

// Bounds of an epoch record.
const (
	// DefaultGrace is how long the epoch before is still good, in ordinary times.
	DefaultGrace = 10 * time.Minute
	// maxGrace keeps whoever was put out from staying for days by a typing error.
	maxGrace = time.Hour
	// maxEpochs is the newest record and the one before it: whoever has slept knows
	// from both what is in force at this moment.
	maxEpochs = 2
)

// Epochs says from when on which group key is in force. Super peers compute the
// key from the one before; whoever does not get it from them is out.
type Epochs struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Service id.ID
	Seq     uint64 // never goes back
	Issued  int64  // Unix seconds
	// Policy is the sequence number of the policy that says who is out: super peers
	// hand the newest key out under this one or a newer one, never under an older.
	Policy  uint64
	Records []EpochRecord // 1 or 2, ascending; the last one is the newest epoch
}

// EpochRecord is one generation of the group key.
type EpochRecord struct {
	_          struct{} `cbor:",toarray"`
	Number     uint32
	ActivateAt int64  // Unix seconds, on the service's clock
	Grace      uint32 // seconds that the epoch before is still good for afterwards; 0 in an emergency
}

// Activates returns when r comes into force.
func (r EpochRecord) Activates() time.Time { return time.Unix(r.ActivateAt, 0) }

// GraceTime returns how long the epoch before stays good.
func (r EpochRecord) GraceTime() time.Duration { return time.Duration(r.Grace) * time.Second }

// Settled returns when nothing of the epoch before is good any more.
func (r EpochRecord) Settled() time.Time { return r.Activates().Add(r.GraceTime()) }

// NewEpochs signs e, filling in its version.
func NewEpochs(e Epochs, owners []ed25519.PrivateKey) (Signed, error) {
	e.Version = docVersion
	if err := e.validate(); err != nil {
		return Signed{}, err
	}
	return sign(typeEpochs, wire.Marshal(e), owners), nil
}

func (e *Epochs) validate() error {
	switch {
	case e.Version != docVersion:
		return fmt.Errorf("service: epochs have version %d, this binary knows %d", e.Version, docVersion)
	case e.Seq == 0:
		return errors.New("service: epochs have no sequence number")
	case len(e.Records) == 0 || len(e.Records) > maxEpochs:
		return fmt.Errorf("service: epochs have %d records, want 1 to %d", len(e.Records), maxEpochs)
	}
	for i, r := range e.Records {
		switch {
		case r.Number <= FirstEpoch:
			return fmt.Errorf("service: epoch %d needs no record", r.Number)
		case r.ActivateAt <= 0:
			return fmt.Errorf("service: epoch %d has no time of activation", r.Number)
		case r.GraceTime() > maxGrace:
			return fmt.Errorf("service: epoch %d has %v of grace, at most %v are allowed", r.Number, r.GraceTime(), maxGrace)
		case i > 0 && r.Number != e.Records[i-1].Number+1:
			return fmt.Errorf("service: epoch %d follows epoch %d", r.Number, e.Records[i-1].Number)
		case i > 0 && r.Activates().Before(e.Records[i-1].Settled()):
			return fmt.Errorf("service: epoch %d begins before epoch %d is settled", r.Number, e.Records[i-1].Number)
		}
	}
	return nil
}

// Newest returns the last record.
func (e *Epochs) Newest() EpochRecord { return e.Records[len(e.Records)-1] }

// Record returns what is said of an epoch. Those before the first record began
// long ago.
func (e *Epochs) Record(number uint32) (EpochRecord, bool) {
	if e == nil {
		return EpochRecord{}, false
	}
	for _, r := range e.Records {
		if r.Number == number {
			return r, true
		}
	}
	return EpochRecord{}, false
}

// Oldest returns the first epoch whose key anybody may still need: the one before
// the first record, until that has settled.
func (e *Epochs) Oldest(now time.Time) uint32 {
	if e == nil {
		return FirstEpoch
	}
	oldest := e.Records[0].Number - 1
	for _, r := range e.Records {
		if !now.Before(r.Settled()) {
			oldest = r.Number
		}
	}
	return oldest
}

// Last returns the highest epoch that the owners have spoken of; nil is the time
// before they did.
func (e *Epochs) Last() uint32 {
	if e == nil {
		return FirstEpoch
	}
	return e.Newest().Number
}

// Newer says whether e takes the place of old, which may be nil.
//
// Invariant: neither sequence number nor epoch ever goes back.
func (e *Epochs) Newer(old *Epochs) bool {
	return old == nil || e.Seq > old.Seq && e.Last() >= old.Last()
}

// OpenEpochs verifies a document of t's service.
func (t *Trust) OpenEpochs(s Signed) (*Epochs, error) {
	if err := s.verify(typeEpochs, t.Root); err != nil {
		return nil, err
	}
	e := new(Epochs)
	if err := wire.Unmarshal(s.Body, e, MaxEpochs); err != nil {
		return nil, fmt.Errorf("service: epochs: %w", err)
	}
	if err := e.validate(); err != nil {
		return nil, err
	}
	if e.Service != t.Service {
		return nil, fmt.Errorf("service: epochs are of service %s, not %s", e.Service.Short(), t.Service.Short())
	}
	return e, nil
}

// NextEpochs returns the document after old, which may be nil: an epoch more, in
// force at a moment. Without grace it is an emergency: whatever was announced or
// still good gives way at once. Otherwise the epoch before must have settled by
// then, since a member holds three keys at most.
func NextEpochs(old *Epochs, service id.ID, policy uint64, now, at time.Time, grace time.Duration) (Epochs, error) {
	next := Epochs{Service: service, Seq: 1, Issued: now.Unix(), Policy: policy}
	r := EpochRecord{Number: old.Last() + 1, ActivateAt: at.Unix(), Grace: uint32(grace / time.Second)}
	if old == nil {
		next.Records = []EpochRecord{r}
		return next, nil
	}
	next.Seq = old.Seq + 1
	before := old.Newest()
	if at.Before(before.Settled()) {
		if grace > 0 {
			return next, &UnsettledError{Record: before}
		}
		before = before.cut(at)
	}
	next.Records = []EpochRecord{before, r}
	return next, nil
}

// cut has r settle by at.
func (r EpochRecord) cut(at time.Time) EpochRecord {
	r.ActivateAt = min(r.ActivateAt, at.Unix())
	r.Grace = min(r.Grace, uint32(at.Unix()-r.ActivateAt))
	return r
}

// UnsettledError says that an epoch is still on its way.
type UnsettledError struct{ Record EpochRecord }

func (e *UnsettledError) Error() string {
	return fmt.Sprintf("epoch %d comes into force on %s, and the one before it is good until %s", e.Record.Number, day(e.Record.ActivateAt), day(e.Record.Settled().Unix()))
}
