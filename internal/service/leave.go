package service

import (
	"crypto/ed25519"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

const (
	domainLeave = "icvpn/1 leave"
	// MaxLeave bounds a Leave in bytes.
	MaxLeave = 160
	// leaveSlack is how long ago it may have been said.
	leaveSlack = 2 * time.Minute
)

// Leave is a process's own word that it leaves a service. It goes to its super
// peer, which takes it out of the directory at once.
type Leave struct {
	_        struct{} `cbor:",toarray"`
	Version  uint8
	Key      ed25519.PublicKey
	Instance Instance
	At       int64 // Unix seconds
	Sig      []byte
}

// SignLeave returns the bytes to send.
func SignLeave(key ed25519.PrivateKey, service id.ID, instance Instance, at time.Time) []byte {
	l := Leave{Version: docVersion, Key: key.Public().(ed25519.PublicKey), Instance: instance, At: at.Unix()}
	l.Sig = wire.Sign(key, domainLeave, l.signed(service))
	return wire.Marshal(l)
}

func (l *Leave) signed(service id.ID) []byte {
	return wire.Marshal(struct {
		_        struct{} `cbor:",toarray"`
		Service  id.ID
		Instance Instance
		At       int64
	}{Service: service, Instance: l.Instance, At: l.At})
}

// ParseLeave reads a Leave of about now. Who said it, Verify tells.
func ParseLeave(b []byte, now time.Time) (l Leave, ok bool) {
	err := wire.Unmarshal(b, &l, MaxLeave)
	return l, err == nil && l.Version == docVersion && len(l.Key) == ed25519.PublicKeySize &&
		now.Sub(time.Unix(l.At, 0)).Abs() <= leaveSlack
}

// Verify says whether the machine of l's key said it in service.
func (l *Leave) Verify(service id.ID) bool {
	return wire.Verify(l.Key, l.Sig, domainLeave, l.signed(service))
}
