package admission

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// We chose:
const (
	// offerLife is how long a key may be offered; it is used for as long again, since
	// a member needs a round trip.
	offerLife = time.Minute
	offerUse  = 2 * offerLife
	// maxSeen is how many renewals of one member are looked at for one offered key: two
	// times three tries. Whoever plays another's again, and whoever plays with his own
	// ticket, costs no more than that.
	maxSeen = 6
)

// Renewer is a super peer's side of renewals by datagram, of one service. A
// datagram costs a cookie, a ticket's seal, a MAC and the ticket's mark, in this order,
// before more is computed for it. Safe for concurrent use.
type Renewer struct {
	service *Service

	mu              sync.Mutex
	current, former *offered // may be nil
}

// offered is a key that the super peer has offered.
type offered struct {
	key    *ecdh.PrivateKey
	pub    []byte
	cookie Key // makes the cookies that go with it
	made   time.Time
	until  uint64
	sig    []byte
	seen   map[id.ID][]point // what each member has sent for it; at most maxSeen
}

// point is e of a renewal.
type point [pubSize]byte

// NewRenewer returns the renewer of a service. Of service it needs the ID, the
// ticket keys, the super peer's key, and Issuer.
func NewRenewer(service *Service) *Renewer { return &Renewer{service: service} }

// Offer answers an ask from an address; nil for what is none. The answer is 121
// bytes: no longer than the ask if that is padded like any other question.
func (r *Renewer) Offer(now time.Time, payload []byte, from netip.AddrPort) ([]byte, error) {
	if !IsRenewalAsk(payload) {
		return nil, nil
	}
	o, err := r.offer(now)
	if err != nil {
		return nil, err
	}
	out := append([]byte{datagramOffer}, payload[1:]...)
	out = append(append(out, o.cookieFor(from)...), o.pub...)
	return append(binary.BigEndian.AppendUint64(out, o.until), o.sig...), nil
}

// offer returns the key to offer now. Its signature, and the key's own
// multiplication, serve all members of a minute.
func (r *Renewer) offer(now time.Time) (*offered, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.current; o != nil && !now.Before(o.made) && now.Sub(o.made) < offerLife {
		return o, nil
	}
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("admission: %w", err)
	}
	o := &offered{key: key, pub: key.PublicKey().Bytes(), made: now, until: unixMs(now.Add(offerUse)), seen: map[id.ID][]point{}}
	rand.Read(o.cookie[:])
	o.sig = wire.Sign(r.service.Key, labelDatagramOffer, offerParts(r.service.ID, o.pub, o.until)...)
	r.current, r.former = o, r.current
	return o, nil
}

// cookieFor shows that who has it receives at an address:
// HMAC(key, "icvpn/1 datagram cookie" ‖ IPv6 or mapped IPv4 ‖ port u16), 8 bytes.
func (o *offered) cookieFor(to netip.AddrPort) []byte {
	a := to.Addr().As16()
	return mac(&o.cookie, labelDatagramCookie, a[:], binary.BigEndian.AppendUint16(nil, to.Port()))[:cookieSize]
}

// offeredTo returns the key that came with a cookie, if it may be used still.
func (r *Renewer) offeredTo(now time.Time, cookie []byte, from netip.AddrPort) *offered {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range []*offered{r.current, r.former} {
		if o.serves(now) && equal(cookie, o.cookieFor(from)) {
			return o
		}
	}
	return nil
}

func (o *offered) serves(now time.Time) bool {
	return o != nil && now.Sub(o.made).Abs() < offerUse
}

// Expire drops keys that may not be used any more, so that what was sent under them
// cannot be opened with what the process holds later. Call it every minute.
func (r *Renewer) Expire(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range []**offered{&r.current, &r.former} {
		if !(*o).serves(now) {
			*o = nil
		}
	}
}

// first says whether a member has not sent e for o before, nor too many others.
func (r *Renewer) first(o *offered, pid id.ID, e []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := o.seen[pid]
	if len(before) >= maxSeen || slices.Contains(before, point(e)) {
		return false
	}
	o.seen[pid] = append(before, point(e))
	return true
}

// Asked is a renewal that somebody with a ticket of this super peer, and its session
// key, has asked for. Wipe it.
type Asked struct {
	ticket     *Ticket
	offered    *offered
	e          []byte
	mac        []byte
	box        []byte
	transcript [hashSize]byte
}

// PID is whose ticket it is.
func (q *Asked) PID() id.ID { return q.ticket.PID }

// Wipe overwrites the session key.
func (q *Asked) Wipe() { q.ticket.Key.Wipe() }

// Open returns the renewal that a datagram asks for, nil if it is none, or of nobody
// with a ticket. It borrows payload.
func (r *Renewer) Open(now time.Time, payload []byte, from netip.AddrPort) *Asked {
	if len(payload) < renewalHeader || payload[0] != datagramRenewal {
		return nil
	}
	b := payload[1:]
	cookie, b := b[:cookieSize], b[cookieSize:]
	e, b := b[:pubSize], b[pubSize:]
	proof, b := b[:hashSize], b[hashSize:]
	n, b := int(binary.BigEndian.Uint16(b)), b[2:]
	if n > len(b) {
		return nil
	}
	ticket, box := b[:n], b[n:]
	o := r.offeredTo(now, cookie, from)
	if o == nil {
		return nil
	}
	t, err := openTicket(r.service.TicketKeys, r.service.ID, ticket)
	if err != nil {
		return nil
	}
	own := r.service.Key.Public().(ed25519.PublicKey)
	q := &Asked{ticket: t, offered: o, e: bytes.Clone(e), mac: bytes.Clone(proof), transcript: transcriptOf(r.service.ID, own, o.pub, e)}
	if !now.Before(t.Expires) || !equal(proof, datagramMAC(&t.Key, q.transcript, ticket, box)) ||
		!t.isOwn(r.service.Key, r.service.ID) || !r.first(o, t.PID, e) {
		q.Wipe()
		return nil
	}
	q.box = bytes.Clone(box)
	return q
}

// Answer renews. Whoever may not renew like this, for whatever reason, is told to go
// over TLS, and err says why. Of the backend it asks Continue, which has to check
// that the identity key's holder has asked for this, and has asked now: nothing here
// shows it. It wipes q.
func (r *Renewer) Answer(now time.Time, q *Asked, backend Backend) (answer []byte, err error) {
	defer q.Wipe()
	answer, err = r.answer(now, q, backend)
	if err != nil {
		return append([]byte{datagramDeclined}, q.e[:txSize]...), err
	}
	return answer, nil
}

func (r *Renewer) answer(now time.Time, q *Asked, backend Backend) ([]byte, error) {
	t := q.ticket
	theirs, err := ecdh.X25519().NewPublicKey(q.e)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	shared, err := q.offered.key.ECDH(theirs)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	keys := agree(q.transcript, shared)
	defer keys.wipe()
	plain, err := requestCipher(&keys.request).Open(nil, make([]byte, chacha20poly1305.NonceSize), q.box, nil)
	if err != nil || len(plain) < ed25519.PublicKeySize {
		return nil, fmt.Errorf("%w: renewal", ErrMalformed)
	}
	idkey, request := ed25519.PublicKey(bytes.Clone(plain[:ed25519.PublicKeySize])), plain[ed25519.PublicKeySize:]
	if pid := id.FromKey(idkey); pid != t.PID {
		return nil, fmt.Errorf("admission: ticket of %v used by %v", t.PID, pid)
	}
	if !issued(r.service, now, t) {
		return nil, fmt.Errorf("admission: ticket of %v was not issued by a super peer that may admit", t.PID)
	}
	who := Authenticated{
		Service: r.service.ID, SecretID: t.SecretID, PID: t.PID, IDKey: idkey, Admitted: t.Admitted, Continued: true, ByDatagram: true,
		Key: keys.next(&t.Key, r.service.ID, t.PID), Exporter: q.transcript,
	}
	defer who.Key.Wipe()
	granted, err := backend.Continue(who, t, request)
	if err != nil {
		return nil, err
	}
	if err := granted.check(now); err != nil {
		return nil, err
	}
	return seal(q, &who, wire.Marshal(&datagramGrant{
		Grant: granted.Bytes, Ticket: newTicket(r.service, &who, &granted), Expires: unixMs(granted.Expires), Clock: unixMs(now),
	}))
}

// errAnswerSize ends a renewal whose answer does not go into a datagram. It was
// made, and over TLS it is made again.
var errAnswerSize = errors.New("admission: grant too long for a datagram")

func seal(q *Asked, who *Authenticated, plain []byte) ([]byte, error) {
	aead := answerCipher(&who.Key)
	if answerHeader+len(plain)+aead.Overhead() > limitDatagram {
		return nil, errAnswerSize
	}
	out := make([]byte, answerHeader, limitDatagram)
	out[0] = datagramAnswer
	copy(out[1:], q.e[:txSize])
	nonce := out[1+txSize:]
	rand.Read(nonce)
	return aead.Seal(out, nonce, plain, q.mac), nil
}
