package keyex

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"

	"icvpn/internal/id"
)

// Peer is what a credential says about its holder.
type Peer struct {
	PID     id.ID
	Key     ed25519.PublicKey // identity key; PID is its hash
	Expires time.Time         // of the credential; zero if it has no end
	Info    any               // whatever VerifyCred wants to hand to Authorize and into the Result
}

var errForeignKey = errors.New("keyex: identity key of the credential does not hash to its PID")

// credentials remembers what VerifyCred accepted, by hash of credential and
// epoch. Refusals are not remembered: they cost a forger nothing to vary.
type credentials struct {
	verify func(now time.Time, cred []byte, epoch uint32) (Peer, error)
	known  *bounded[hash, Peer]
}

func newCredentials(verify func(time.Time, []byte, uint32) (Peer, error)) credentials {
	return credentials{verify, newBounded[hash, Peer](maxCredentials, credentialLife, nil)}
}

func (c credentials) peer(now time.Time, cred []byte, epoch uint32) (Peer, error) {
	key := sha256.Sum256(binary.BigEndian.AppendUint32(append([]byte(nil), cred...), epoch))
	if p, ok := c.known.get(now, key); ok {
		if p.Expires.IsZero() || now.Before(p.Expires) {
			return p, nil
		}
		c.known.remove(key)
	}
	p, err := c.verify(now, cred, epoch)
	if err != nil {
		return Peer{}, err
	}
	if len(p.Key) != ed25519.PublicKeySize || id.FromKey(p.Key) != p.PID {
		return Peer{}, errForeignKey
	}
	if c.known.full(now) {
		c.known.dropOldest()
	}
	c.known.put(now, key, p)
	return p, nil
}
