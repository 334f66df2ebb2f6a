package seal

import (
	"encoding/binary"
	"net/netip"
	"time"

	"icvpn/internal/id"
)

// Opened is an authentic datagram: some member or super peer of Service sealed
// it, nobody knows which.
type Opened struct {
	Service id.ID
	Type    Type
	Epoch   uint32 // answer under this one
	Payload []byte // lies inside the datagram given to Open
	Room    int    // payload and padding: no answer may be longer
}

// Open authenticates and decrypts in place. It takes datagram: on success
// Payload lies in it, on a drop its bytes are lost. from is where it came from,
// which decides nothing but whom a full nonce set sheds first.
func (r *Ring) Open(now time.Time, datagram []byte, from netip.Addr) (Opened, Drop) {
	o, d := r.open(now, datagram, from)
	r.stats.count(d)
	return o, d
}

func (r *Ring) open(now time.Time, datagram []byte, from netip.Addr) (Opened, Drop) {
	// 1. length, marker, type
	if d := precheck(datagram); d != Passed {
		return Opened{}, d
	}
	// 2. kid
	var found [maxEpochs]*epochKey
	n, old := r.match(now, datagram, &found)
	if n == 0 {
		return Opened{}, unmatched(old)
	}
	if n > 1 {
		return openCopies(now, datagram, from, r, found[:n])
	}
	// 3. the rest
	return r.openWith(now, datagram, from, found[0])
}

func precheck(datagram []byte) Drop {
	switch {
	case len(datagram) < Overhead || len(datagram) > MaxDatagram:
		return DropLength
	case binary.BigEndian.Uint32(datagram) != 0:
		return DropMarker
	case !Type(datagram[markerSize]).valid():
		return DropType
	}
	return Passed
}

// unmatched tells the kid of an epoch that is over from one never heard of:
// only the latter may prompt a renewal.
func unmatched(old bool) Drop {
	if old {
		return DropEpoch
	}
	return DropUnknown
}

// match collects the usable epochs with the datagram's kid. Several may have it:
// 32 bits name a key, they do not prove it. old reports a kid of an epoch that is
// not usable.
func (r *Ring) match(now time.Time, datagram []byte, found *[maxEpochs]*epochKey) (n int, old bool) {
	typ := datagram[markerSize]
	kid := [4]byte(datagram[markerSize+1 : adSize])
	for _, k := range *r.keys.Load() {
		switch {
		case k.kid[typ] != kid:
		case r.usable(k, now):
			found[n] = k
			n++
		default:
			old = true
		}
	}
	return n, old
}

// openCopies tries several keys on copies, because a failed attempt erases what
// it worked on.
func openCopies(now time.Time, datagram []byte, from netip.Addr, r *Ring, keys []*epochKey) (Opened, Drop) {
	for _, k := range keys {
		if o, d := r.openWith(now, append([]byte(nil), datagram...), from, k); d != DropForged {
			return o, d
		}
	}
	return Opened{}, DropForged
}

func (r *Ring) openWith(now time.Time, datagram []byte, from netip.Addr, k *epochKey) (Opened, Drop) {
	// 3. authenticate; nothing below is reached by an outsider
	typ := Type(datagram[markerSize])
	nonce, sealed := datagram[adSize:headerSize], datagram[headerSize:]
	plain, err := k.aead[typ].Open(sealed[:0], nonce, sealed, datagram[:adSize])
	if err != nil {
		return Opened{}, DropForged
	}
	// 4. freshness by the clock
	at := binary.BigEndian.Uint64(plain)
	if !fresh(at, stamp(r.clock(now))) {
		return Opened{}, DropTime
	}
	// 5. shape
	payload, ok := unpad(plain[8:])
	if !ok {
		return Opened{}, DropInner
	}
	// 6. freshness by the nonce, last, so that only good datagrams take room
	switch r.seen[typ].add(at, nonce, sourceOf(from)) {
	case nonceSeen:
		return Opened{}, DropReplay
	case nonceLate:
		return Opened{}, DropTime
	case nonceFull:
		if !r.cfg.IsAnswer(typ, payload) {
			return Opened{}, DropBusy
		}
	}
	return Opened{
		Service: r.cfg.Service,
		Type:    typ,
		Epoch:   k.Number,
		Payload: payload,
		Room:    len(plain) - innerSize,
	}, Passed
}

// fresh compares milliseconds without the overflow of a subtraction.
func fresh(at, clock uint64) bool {
	w := uint64(Window.Milliseconds())
	if at >= clock {
		return at-clock <= w
	}
	return clock-at <= w
}

// unpad returns the payload of u16 length ‖ payload ‖ zeros.
func unpad(b []byte) ([]byte, bool) {
	n, body := int(binary.BigEndian.Uint16(b)), b[2:]
	if n > len(body) {
		return nil, false
	}
	var pad byte
	for _, c := range body[n:] {
		pad |= c
	}
	return body[:n:n], pad == 0
}
