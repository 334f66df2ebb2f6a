package relay

import (
	"bytes"
	"crypto/ed25519"
	"io"
	"net/netip"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// Config is what a Holdings works with. All is required.
type Config struct {
	Service id.ID
	Key     ed25519.PrivateKey // the machine's identity
	Rand    io.Reader
	// Conn is told what is held.
	Conn *Conn
}

// Holdings are this machine's allocations. Relays are asked as long as somebody wants
// them:
//
//	        Want            token           held
//	(none) ─────> asking ─────────> asking ──────> held ──refreshEvery──> asked again
//	   ^             │ silent through askWaits, busy   │ no longer wanted     │ silent
//	   └─────────────┴──────── Lost ───────────────────┴──────────────────────┘
//
// It belongs to one goroutine.
type Holdings struct {
	cfg    Config
	of     map[id.ID]*holding // by relay
	serial uint16
}

// holding is our allocation at one relay, or the search for it.
type holding struct {
	relay  id.ID
	addr   netip.AddrPort
	until  time.Time   // wanted so long
	tx     [txLen]byte // of the question that waits for an answer, zero for none
	token  []byte
	tries  int       // sent since the last answer, 0 if none is awaited
	proofs int       // asked for since the last allocation
	next   time.Time // when to ask again
	name   ID        // zero: none yet
	n      uint16    // what virtual addresses have as their port
}

// Query is a datagram to seal as seal.TypeRelay, padded to seal.PadQuery, and to send.
type Query struct {
	To      netip.AddrPort
	Payload []byte
}

// Output is what a call brought about.
type Output struct {
	Send []Query
	Held []id.ID // relays at which there is an allocation now that was not, or another
	Lost []id.ID // relays that are not asked any more, because they were silent or full
}

// NewHoldings returns a machine that wants nothing.
func NewHoldings(cfg Config) *Holdings { return &Holdings{cfg: cfg, of: map[id.ID]*holding{}} }

// Want asks for an allocation at a relay, which is kept at least until some time.
func (h *Holdings) Want(now time.Time, relay id.ID, addr netip.AddrPort, until time.Time) (out Output) {
	addr = unmap(addr)
	had := h.of[relay]
	if had != nil && had.addr == addr {
		had.until = latest(had.until, until)
		return out
	}
	if had == nil && len(h.of) >= maxHoldings {
		return Output{Lost: []id.ID{relay}}
	}
	had = &holding{relay: relay, addr: addr, until: until} // of one that has moved nothing holds
	h.of[relay] = had
	h.ask(now, had, &out)
	h.show()
	return out
}

// Keep keeps an allocation that there is, at the relay of an address, at least until some
// time.
func (h *Holdings) Keep(addr netip.AddrPort, until time.Time) {
	for _, had := range h.of {
		if had.addr == unmap(addr) {
			had.until = latest(had.until, until)
		}
	}
}

// Held returns our allocation at a relay.
func (h *Holdings) Held(relay id.ID) (name ID, addr netip.AddrPort, ok bool) {
	if had := h.of[relay]; had != nil && !had.name.IsZero() {
		return had.name, had.addr, true
	}
	return ID{}, netip.AddrPort{}, false
}

// Receive takes a datagram of type seal.TypeRelay. It borrows payload.
func (h *Holdings) Receive(now time.Time, from netip.AddrPort, payload []byte) (out Output) {
	a, ok := parseAnswer(payload)
	if !ok {
		return out
	}
	for _, had := range h.of {
		if had.addr == unmap(from) && bytes.Equal(a.Tx, had.tx[:]) && had.tries > 0 {
			h.learn(now, had, a, &out)
			break
		}
	}
	return out
}

// learn takes the answer to a question of ours.
func (h *Holdings) learn(now time.Time, had *holding, a answer, out *Output) {
	had.token, had.tx = bytes.Clone(a.Token), [txLen]byte{}
	switch a.Status {
	case statusHeld:
		had.tries, had.proofs, had.next = 0, 0, now.Add(refreshEvery)
		if name := ID(a.Allocation); name != had.name {
			had.name, had.n = name, h.number()
			h.show()
			out.Held = append(out.Held, had.relay)
		}
	case statusProve:
		if had.proofs++; had.proofs > maxProofs {
			h.lose(had, out)
			return
		}
		had.tries = 0
		h.ask(now, had, out)
	case statusBusy:
		h.lose(had, out)
	}
}

// Tick asks again, gives up who is silent, and lets go what nobody wants.
func (h *Holdings) Tick(now time.Time) (out Output) {
	for relay, had := range h.of {
		switch {
		case now.Before(had.next) && now.Before(had.until):
		case !now.Before(had.until):
			delete(h.of, relay)
			h.show()
		default:
			h.ask(now, had, &out)
		}
	}
	return out
}

// Deadline returns when Tick is due next, the zero time if never.
func (h *Holdings) Deadline() (first time.Time) {
	for _, had := range h.of {
		for _, at := range []time.Time{had.next, had.until} {
			if first.IsZero() || at.Before(first) {
				first = at
			}
		}
	}
	return first
}

// ask sends the question, with our word once we have a token.
func (h *Holdings) ask(now time.Time, had *holding, out *Output) {
	if had.tries == len(askWaits) {
		h.lose(had, out)
		return
	}
	// Repetitions are the same question: an answer to any of them counts.
	if had.tx == ([txLen]byte{}) {
		if _, err := io.ReadFull(h.cfg.Rand, had.tx[:]); err != nil {
			panic("relay: internal error: " + err.Error())
		}
	}
	q := query{Ver: version, Tx: had.tx[:], Token: had.token, Key: []byte{}, Sig: []byte{}}
	if len(had.token) > 0 {
		q.Key = h.cfg.Key.Public().(ed25519.PublicKey)
		q.Sig = wire.Sign(h.cfg.Key, domainAllocate, signedParts(h.cfg.Service, had.relay, had.token, had.tx[:])...)
	} else {
		q.Token = []byte{}
	}
	out.Send = append(out.Send, Query{To: had.addr, Payload: wire.Marshal(q)})
	had.next = now.Add(askWaits[had.tries])
	had.tries++
}

func (h *Holdings) lose(had *holding, out *Output) {
	delete(h.of, had.relay)
	out.Lost = append(out.Lost, had.relay)
	h.show()
}

// number returns one that no holding has, and that none had lately: what is late for the
// old one must not seem to come from the new one's peers.
func (h *Holdings) number() uint16 {
	for {
		h.serial++
		taken := h.serial == 0
		for _, had := range h.of {
			taken = taken || had.n == h.serial
		}
		if !taken {
			return h.serial
		}
	}
}

// show tells Conn what is held.
func (h *Holdings) show() {
	var all []route
	for _, had := range h.of {
		if !had.name.IsZero() {
			all = append(all, route{n: had.n, relay: had.addr, own: had.name})
		}
	}
	h.cfg.Conn.setRoutes(all)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
