package keyex

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"time"

	"icvpn/internal/wire"
)

// cookie is kid 1 ‖ MAC 16. It proves that its holder receives at the path it
// was sent to, and that we made the M2 hashed into H2 at most two rotations
// ago; so a responder need not remember that M2.
type cookie [17]byte

// cookieJar holds the last two cookie keys. They are random per process and
// made on first use.
type cookieJar struct {
	rand io.Reader
	keys [2][32]byte // current, previous
	kid  uint8       // of the current key
	born time.Time   // of the current key, on the grid of rotations
}

// rotate brings the keys up to date. It steps along a fixed grid instead of
// from one use to the next.
//
// Invariant: a key issues for at most one rotation and is gone after two, so a
// cookie lives for less than answerLife, even if nothing happens in between.
func (j *cookieJar) rotate(now time.Time) {
	if j.born.IsZero() {
		j.born = now
		j.kid = random(j.rand, 1)[0]
		j.keys[0], j.keys[1] = [32]byte(random(j.rand, 32)), [32]byte(random(j.rand, 32))
	}
	steps := now.Sub(j.born) / cookieRotation
	if steps <= 0 {
		return
	}
	j.born = j.born.Add(steps * cookieRotation)
	j.kid += uint8(steps)
	for range min(steps, 2) {
		j.keys[1] = j.keys[0]
		j.keys[0] = [32]byte(random(j.rand, 32))
	}
}

// issue returns the cookie for an M2 with running hash h2, sent to path.
func (j *cookieJar) issue(now time.Time, path Path, h2 hash) cookie {
	j.rotate(now)
	return bake(&j.keys[0], j.kid, path, h2)
}

// check says whether c is a cookie of ours for path and h2.
func (j *cookieJar) check(now time.Time, c cookie, path Path, h2 hash) bool {
	j.rotate(now)
	age := j.kid - c[0]
	if age > 1 {
		return false
	}
	want := bake(&j.keys[age], c[0], path, h2)
	return hmac.Equal(want[:], c[:])
}

// bake returns kid ‖ HMAC(Kc, "icvpn/1 cookie" ‖ IP 16 ‖ port ‖ lp(relay) ‖ H2)[:16].
func bake(key *[32]byte, kid uint8, path Path, h2 hash) (c cookie) {
	ip := path.Addr.Addr().As16()
	b := append(wire.Label("icvpn/1 cookie"), ip[:]...)
	b = binary.BigEndian.AppendUint16(b, path.Addr.Port())
	b = append(wire.AppendLP(b, []byte(path.Relay)), h2[:]...)
	mac := hmac.New(sha256.New, key[:])
	mac.Write(b)
	c[0] = kid
	copy(c[1:], mac.Sum(nil))
	return c
}
