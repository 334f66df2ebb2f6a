package node

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/id"
	"icvpn/internal/provision"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// keptMembership is a membership in the sealed store (docs/protocol/state.md).
type keptMembership struct {
	_         struct{} `cbor:",toarray"`
	Version   uint8
	Documents service.Documents
	Grant     []byte
	SuperPeer string
	SecretID  string
	OffsetMS  int64
	WallMS    int64  // when OffsetMS held, by the machine's clock ...
	ElapsedMS int64  // ... and by the one that nobody sets
	Boot      string // of the machine; ElapsedMS counts within it
	Ticket    []byte // of key continuity
	TicketKey []byte // K_c
	TicketEnd int64  // Unix seconds
}

const (
	keptVersion = 3
	maxKept     = 256 << 10
)

// Moment is a reading of the machine's clocks.
type Moment struct {
	Wall time.Time
	// Elapsed is time since the machine booted, in suspension too.
	Elapsed time.Duration
	// Boot names this run of the machine's kernel; "" if it is not known.
	Boot string
}

// Seen are the highest sequence numbers that this machine has met. Documents of
// before that are rolled back, wherever they come from.
type Seen struct{ Descriptor, Policy, Root uint64 }

// Encode returns the bytes to keep; they are secret.
func (m *Membership) Encode(at Moment) []byte {
	return wire.Marshal(keptMembership{
		Version: keptVersion, Documents: m.Documents, Grant: m.Grant.Encode(), SuperPeer: m.SuperPeer, SecretID: m.Credential.SecretID,
		OffsetMS: m.Offset.Milliseconds(), WallMS: at.Wall.UnixMilli(), ElapsedMS: at.Elapsed.Milliseconds(), Boot: at.Boot,
		Ticket: m.Session.Ticket, TicketKey: m.Session.Key[:], TicketEnd: m.Session.Expires.Unix(),
	})
}

func parseKept(b []byte) (k keptMembership, g provision.Grant, err error) {
	if err := wire.Unmarshal(b, &k, maxKept); err != nil {
		return k, g, fmt.Errorf("node: kept membership: %w", err)
	}
	if k.Version != keptVersion || len(k.TicketKey) != len(admission.Key{}) {
		return k, g, fmt.Errorf("node: kept membership has version %d, this binary knows %d", k.Version, keptVersion)
	}
	g, err = provision.ParseGrant(k.Grant)
	return k, g, err
}

func (k *keptMembership) session() admission.Session {
	return admission.Session{Key: admission.Key(k.TicketKey), Ticket: k.Ticket, Expires: time.Unix(k.TicketEnd, 0)}
}

// offset is the service's clock minus ours. If somebody has set the machine's
// clock since it was learnt, that is taken into account; over a reboot nothing
// tells, and it is believed until a super peer is met.
func (k *keptMembership) offset(at Moment) time.Duration {
	offset := time.Duration(k.OffsetMS) * time.Millisecond
	if at.Boot == "" || at.Boot != k.Boot {
		return offset
	}
	step := at.Wall.Sub(time.UnixMilli(k.WallMS)) - (at.Elapsed - time.Duration(k.ElapsedMS)*time.Millisecond)
	if step.Abs() < clockStep {
		return offset
	}
	return offset - step.Round(time.Millisecond)
}

// DecodeKept returns what Encode wrote, for coming back with the ticket, and the
// endpoint of the super peer that gave it. Nothing of it is verified: what is
// taken over into a new membership is, then.
func DecodeKept(b []byte) (*Kept, string, error) {
	k, g, err := parseKept(b)
	if err != nil {
		return nil, "", err
	}
	return &Kept{Session: k.session(), Grant: g, SecretID: k.SecretID}, k.SuperPeer, nil
}

// DecodeMembership reads what Encode wrote and verifies the whole chain again,
// to go on without a super peer: what has expired since, or is older than what
// was seen, serves no more.
func DecodeMembership(b []byte, s id.ID, key ed25519.PrivateKey, seen Seen, at Moment) (*Membership, error) {
	k, g, err := parseKept(b)
	if err != nil {
		return nil, err
	}
	m := &Membership{Documents: k.Documents, Grant: g, SuperPeer: k.SuperPeer, Session: k.session(), Offset: k.offset(at), Unconfirmed: true}
	now := at.Wall.Add(m.Offset)
	if m.Trust, err = service.Open(k.Documents, s, seen.Descriptor, now); err != nil {
		return nil, err
	}
	if m.Trust, err = m.Trust.WithPolicy(g.Policy, now); err != nil {
		return nil, err
	}
	if err := checkSeen(m.Trust, seen); err != nil {
		return nil, err
	}
	if m.Credential, err = m.Trust.VerifyCredential(now, g.Credential, g.Epoch); err != nil {
		return nil, err
	}
	if !m.Credential.Key.Equal(key.Public()) {
		return nil, errors.New("node: kept membership is of another identity")
	}
	if m.Epochs, err = openEpochs(m.Trust, g); err != nil {
		return nil, err
	}
	m.Key, err = abe.ParseKey(g.AttributeKey)
	return m, err
}

// checkSeen refuses a policy or a chain of root documents that is older than one
// seen before; service.Open does so for the descriptor.
func checkSeen(t *service.Trust, seen Seen) error {
	if t.Policy != nil && t.Policy.Sequence < seen.Policy {
		return fmt.Errorf("%w: policy has sequence number %d, %d is known", service.ErrRollback, t.Policy.Sequence, seen.Policy)
	}
	if t.Root.Seq < seen.Root {
		return fmt.Errorf("%w: root document has sequence number %d, %d is known", service.ErrRollback, t.Root.Seq, seen.Root)
	}
	return nil
}
