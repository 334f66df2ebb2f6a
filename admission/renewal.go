package admission

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// ErrDeclined is returned where a renewal cannot be had by datagram: go over TLS,
// with the same ticket.
var ErrDeclined = errors.New("admission: not by datagram")

const (
	// offerSlack is how far the clocks of a member and a super peer may differ: the
	// window of control datagrams.
	offerSlack = 2 * time.Minute
	// maxOfferLife bounds what a member takes: an offer that was signed for long would
	// be one whose key is kept for long.
	maxOfferLife = 10 * time.Minute
)

// RenewalConfig is what a member brings along. It has no useful zero value.
type RenewalConfig struct {
	Service id.ID
	// Identity is the member's key; what signs with it is the Request.
	Identity ed25519.PublicKey
	// Server is the key of the super peer that gave the ticket.
	Server ed25519.PublicKey
	// Session is borrowed until the renewal is over.
	Session *Session
	// Request returns what is asked for, with the identity key's proof in it: of now
	// and for this super peer. It is called once for each offer that is taken.
	Request func() ([]byte, error)
}

// Renewal is a member's side of one renewal by datagram. It is not safe for
// concurrent use.
//
//	Ask --> offer --> renewal --> answer
//
// What does not fit, from whoever sent it, changes nothing.
type Renewal struct {
	cfg  RenewalConfig
	pid  id.ID
	tx   [txSize]byte
	mine *ecdh.PrivateKey // nil before an offer was taken
	mac  []byte
	next Key
}

// Renewed is what a super peer answers.
type Renewed struct {
	Grant   []byte
	Session Session
	Clock   time.Time // the super peer's, when it answered
}

// NewRenewal returns a machine that waits for Ask.
func NewRenewal(cfg RenewalConfig) *Renewal {
	r := &Renewal{cfg: cfg, pid: id.FromKey(cfg.Identity)}
	rand.Read(r.tx[:])
	return r
}

// Ask returns the datagram to begin with, and to begin again with where an answer
// was lost: then the next offer is taken anew, and Request is called again.
func (r *Renewal) Ask() []byte {
	r.mine = nil
	return append([]byte{datagramAsk}, r.tx[:]...)
}

// Step takes a datagram of the super peer. It returns what to send, or what was
// granted, or neither. An error ends the renewal: ErrDeclined, or that of Request.
func (r *Renewal) Step(now time.Time, payload []byte) (send []byte, granted *Renewed, err error) {
	switch {
	case len(payload) == offerSize && payload[0] == datagramOffer && r.mine == nil:
		send, err = r.onOffer(now, payload)
	case len(payload) > answerHeader && payload[0] == datagramAnswer && r.isMine(payload):
		granted = r.onAnswer(payload)
	case len(payload) == 1+txSize && payload[0] == datagramDeclined && r.isMine(payload):
		err = ErrDeclined
	}
	return send, granted, err
}

func (r *Renewal) isMine(payload []byte) bool {
	return r.mine != nil && bytes.Equal(payload[1:1+txSize], r.mine.PublicKey().Bytes()[:txSize])
}

func (r *Renewal) onOffer(now time.Time, payload []byte) ([]byte, error) {
	tx, cookie, pub, until, sig := parseOffer(payload)
	end := fromUnixMs(until)
	if !bytes.Equal(tx, r.tx[:]) || until > maxUnixMs || now.After(end.Add(offerSlack)) || end.After(now.Add(maxOfferLife)) ||
		!wire.Verify(r.cfg.Server, sig, labelDatagramOffer, offerParts(r.cfg.Service, pub, until)...) {
		return nil, nil
	}
	theirs, err := ecdh.X25519().NewPublicKey(pub)
	if err != nil {
		return nil, nil //nolint:nilerr // as any other offer that is none
	}
	mine, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("admission: %w", err)
	}
	return r.take(mine, theirs, cookie)
}

// take answers an offer with a renewal.
func (r *Renewal) take(mine *ecdh.PrivateKey, theirs *ecdh.PublicKey, cookie []byte) ([]byte, error) {
	shared, err := mine.ECDH(theirs)
	if err != nil { // a point of low order
		return nil, nil //nolint:nilerr // as any other offer that is none
	}
	e := mine.PublicKey().Bytes()
	transcript := transcriptOf(r.cfg.Service, r.cfg.Server, theirs.Bytes(), e)
	keys := agree(transcript, shared)
	defer keys.wipe()
	request, err := r.cfg.Request()
	if err != nil {
		return nil, err
	}
	box := requestCipher(&keys.request).Seal(nil, make([]byte, chacha20poly1305.NonceSize), append(bytes.Clone(r.cfg.Identity), request...), nil)
	ticket := r.cfg.Session.Ticket
	if renewalHeader+len(ticket)+len(box) > limitDatagram {
		return nil, fmt.Errorf("%w: a request of %d bytes with a ticket of %d is too long for one", ErrDeclined, len(request), len(ticket))
	}
	r.mine, r.mac = mine, datagramMAC(&r.cfg.Session.Key, transcript, ticket, box)
	r.next = keys.next(&r.cfg.Session.Key, r.cfg.Service, r.pid)
	out := append([]byte{datagramRenewal}, cookie...)
	out = append(append(out, e...), r.mac...)
	out = binary.BigEndian.AppendUint16(out, uint16(len(ticket))) //nolint:gosec // at most limitDatagram
	return append(append(out, ticket...), box...), nil
}

func parseOffer(b []byte) (tx, cookie, pub []byte, until uint64, sig []byte) {
	b = b[1:]
	tx, b = b[:txSize], b[txSize:]
	cookie, b = b[:cookieSize], b[cookieSize:]
	pub, b = b[:pubSize], b[pubSize:]
	return tx, cookie, pub, binary.BigEndian.Uint64(b), b[8:]
}

func (r *Renewal) onAnswer(payload []byte) *Renewed {
	nonce, box := payload[1+txSize:answerHeader], payload[answerHeader:]
	plain, err := answerCipher(&r.next).Open(nil, nonce, box, r.mac)
	if err != nil {
		return nil
	}
	var m datagramGrant
	if wire.Unmarshal(plain, &m, limitDatagram) != nil || !m.valid() {
		return nil
	}
	return &Renewed{
		Grant:   m.Grant,
		Session: Session{Key: r.next, Ticket: m.Ticket, Expires: fromUnixMs(m.Expires)},
		Clock:   fromUnixMs(m.Clock),
	}
}

// Wipe overwrites the secrets that the machine made. Call it when the renewal is
// over, however it ended.
func (r *Renewal) Wipe() {
	r.next.Wipe()
	r.mine, r.cfg.Session = nil, nil
}
