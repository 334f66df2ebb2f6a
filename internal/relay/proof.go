package relay

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// Nothing is kept of who has asked and not proved anything:
//
//	token      = HMAC(Kt, "icvpn/1 relay token" ‖ ip 16 ‖ port ‖ u64 minute)[:16]
//	allocation = HMAC(Ka, "icvpn/1 relay allocation" ‖ ServiceID ‖ PID)[:8]
//
// Kt is of the process. Ka comes from the relay's own key, so that a relay that
// restarts gives everybody the name that is in their contact records already, and
// nobody else can tell whose it is.

// tokens makes and checks tokens.
type tokens struct{ key [32]byte }

func (k *tokens) of(minute uint64, addr netip.AddrPort) []byte {
	ip := addr.Addr().As16()
	b := append(wire.Label(labelToken), ip[:]...)
	b = binary.BigEndian.AppendUint16(b, addr.Port())
	return mac(k.key[:], binary.BigEndian.AppendUint64(b, minute))[:tokenLen]
}

func (k *tokens) give(now time.Time, addr netip.AddrPort) []byte { return k.of(minute(now), addr) }

func (k *tokens) check(now time.Time, addr netip.AddrPort, token []byte) bool {
	n := minute(now)
	return hmac.Equal(token, k.of(n, addr)) || hmac.Equal(token, k.of(n-1, addr))
}

func minute(now time.Time) uint64 { return uint64(now.UnixNano() / int64(tokenInterval)) }

// allocationKey derives Ka from a relay's Ed25519 seed.
func allocationKey(seed []byte) []byte {
	k, err := hkdf.Expand(sha256.New, seed, string(wire.Label(labelAllocations)), 32)
	if err != nil {
		panic("relay: internal error: " + err.Error())
	}
	return k
}

func allocationOf(ka []byte, service, pid id.ID) ID {
	return ID(mac(ka, append(append(wire.Label(labelAllocation), service[:]...), pid[:]...)))
}

func mac(key, b []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(b)
	return h.Sum(nil)
}
