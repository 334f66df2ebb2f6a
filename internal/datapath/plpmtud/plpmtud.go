package plpmtud

import (
	"fmt"
	"slices"
	"time"
)

// RFC 8899, Sections 5.1.1 and 5.1.2, says.
const (
	// maxProbes is how often a size is tried before it counts as too large.
	maxProbes = 3
	// raiseAfter is how long a search's result is believed before larger sizes
	// are tried again.
	raiseAfter = 10 * time.Minute
)

// We chose.
const (
	// DefaultBase is what every IPv6 path carries.
	DefaultBase = 1280
	// DefaultMin is what is used where not even the base gets through.
	DefaultMin = 1200
	// MaxSize bounds the search: jumbo frames.
	MaxSize = 9000

	// probeTimeout is how long an answer may take.
	probeTimeout = time.Second
	// confirmEvery is how often the current size is confirmed under traffic: a
	// path that has become smaller is noticed within that and maxProbes timeouts.
	confirmEvery = 5 * time.Second
	// failedMax is the longest wait between two tries of the base.
	failedMax = time.Minute
	// grain is where a search ends: suites fill ciphertexts up to 16 bytes anyway.
	grain = 8
)

// common are the sizes that paths really have, tried first and upwards: a probe
// that arrives costs a round trip, one that does not costs three timeouts.
var common = []int{
	1280, 1300, 1340, 1380, 1400, 1420, // tunnels in tunnels, mobile networks
	1440, 1460, 1472, 1480, 1492, 1500, // GRE, 6in4, PPPoE, Ethernet
	2000, 4000, 4352, 8000, 8900, 8951, 9000, // FDDI, clouds' jumbo frames
}

// Config of a Machine. The zero value is for an interface of 1500 bytes.
type Config struct {
	// Base is the size that is taken for granted at first, default DefaultBase.
	Base int
	// Min is used where the base does not get through, default DefaultMin.
	Min int
	// Max is the MTU of the interface, at most MaxSize, default 1500.
	Max int
}

type state uint8

const (
	stateIdle   state = iota // before Start
	stateBase                // is the base confirmed?
	stateSearch              // low is confirmed, high is too large
	stateDone                // the current size holds
	stateFailed              // the base does not get through
)

func (s state) String() string {
	return [...]string{"idle", "base", "search", "done", "failed"}[s]
}

// from says which states may precede a state.
var from = map[state][]state{
	stateBase:   {stateIdle, stateBase, stateSearch, stateDone, stateFailed},
	stateSearch: {stateBase, stateDone, stateFailed, stateSearch},
	stateDone:   {stateSearch},
	stateFailed: {stateBase},
}

// Machine looks for the path MTU of one tunnel. Make one with New.
type Machine struct {
	base, min, max int

	state state
	mtu   int // Invariant: at most base, or confirmed
	high  int // in search: the least size known to be too large
	hint  int // to be tried next, 0 if there is none

	probe    int // size of the probe under way, 0 for none
	tries    int // of this size
	timeout  time.Time
	wait     time.Duration // between tries in stateFailed
	checked  time.Time     // last confirmation of mtu
	searched time.Time     // end of the last search
}

// Output is what is to be done after an event.
type Output struct {
	// Probe is the size of a probe to send now, 0 for none. If it cannot be
	// sent, call Refused.
	Probe int
	// Changed says that MTU returns another size than before.
	Changed bool
}

// New returns a machine that does nothing yet.
func New(c Config) *Machine {
	if c.Base == 0 {
		c.Base = DefaultBase
	}
	if c.Min == 0 {
		c.Min = DefaultMin
	}
	if c.Max == 0 {
		c.Max = 1500
	}
	m := &Machine{base: c.Base, min: min(c.Min, c.Base)}
	m.max = m.clamp(c.Max)
	m.base = min(m.base, m.max)
	m.mtu = m.base
	return m
}

func (m *Machine) clamp(size int) int { return max(m.min, min(size, MaxSize)) }

// MTU returns the size that outer packets may have.
func (m *Machine) MTU() int { return m.mtu }

// String returns state and size, for people.
func (m *Machine) String() string { return fmt.Sprintf("%v %d", m.state, m.mtu) }

// Deadline returns when Tick wants to be called, zero if never.
func (m *Machine) Deadline() time.Time { return m.timeout }

// Start begins the search: call it when the peer has been heard.
func (m *Machine) Start(now time.Time) Output {
	return m.watch(func() { m.becomeBase(now, m.max+1, 0) })
}

// Acked is called when the peer says that a dummy of size bytes arrived.
func (m *Machine) Acked(now time.Time, size int) Output {
	return m.watch(func() {
		if m.probe == 0 || size != m.probe {
			return // late, or not about a probe: a later probe will tell
		}
		m.settle()
		switch m.state {
		case stateFailed:
			m.high = m.max + 1 // whatever was known is long ago
			fallthrough
		case stateBase:
			m.mtu, m.checked = size, now
			m.becomeSearch(now)
		case stateSearch:
			m.mtu, m.checked = max(m.mtu, size), now
			m.next(now)
		case stateDone:
			m.checked = now
		}
	})
}

// Refused is called when a probe of that size could not be sent, because the
// interface is too small for it: waiting would be vain.
func (m *Machine) Refused(now time.Time, size int) Output {
	return m.watch(func() {
		if size == m.probe {
			m.tries = maxProbes
			m.lost(now)
		}
	})
}

// Tick is called at or after Deadline.
func (m *Machine) Tick(now time.Time) Output {
	return m.watch(func() {
		if !m.timeout.IsZero() && !now.Before(m.timeout) {
			m.lost(now)
		}
	})
}

// Sent is called when traffic goes out, as often as the caller likes.
func (m *Machine) Sent(now time.Time) Output {
	if m.state != stateDone || m.probe != 0 {
		return Output{}
	}
	return m.watch(func() {
		switch {
		case now.Sub(m.searched) >= raiseAfter && m.mtu < m.max:
			m.high = m.max + 1
			m.becomeSearch(now)
		case now.Sub(m.checked) >= confirmEvery && m.mtu > m.min:
			m.send(now, m.mtu)
		}
	})
}

// TooBig is called when the kernel or a router said that packets of more than
// size bytes do not pass; size 0: it did not say. It may lie: probes decide.
func (m *Machine) TooBig(now time.Time, size int) Output {
	return m.watch(func() {
		switch {
		case m.state == stateIdle || m.state == stateBase || m.state == stateFailed || size >= m.mtu:
			return
		case size < m.base:
			size = 0
		}
		m.becomeBase(now, m.mtu, size)
	})
}

// SetMax is called when the MTU of the interface has changed.
func (m *Machine) SetMax(now time.Time, size int) Output {
	return m.watch(func() {
		size = m.clamp(size)
		was := m.max
		m.max = size
		switch {
		case m.state == stateIdle:
			m.mtu = min(m.mtu, size)
		case size < m.mtu:
			m.becomeBase(now, size+1, size)
		case size > was && m.state == stateDone:
			m.high = size + 1
			m.becomeSearch(now)
		}
	})
}

// watch runs an event and reports what follows from it.
func (m *Machine) watch(event func()) Output {
	mtu, probe, tries := m.mtu, m.probe, m.tries
	event()
	out := Output{Changed: m.mtu != mtu}
	if m.probe != 0 && (m.probe != probe || m.tries != tries) {
		out.Probe = m.probe
	}
	return out
}

// become changes the state.
func (m *Machine) become(s state) {
	if !slices.Contains(from[s], m.state) {
		panic(fmt.Sprintf("plpmtud: internal error: %v after %v", s, m.state))
	}
	m.state = s
}

// becomeBase falls back to the base, to be confirmed, and then to search below
// high, beginning with hint.
func (m *Machine) becomeBase(now time.Time, high, hint int) {
	m.become(stateBase)
	m.settle()
	m.mtu, m.high, m.hint = min(m.base, m.max), high, hint
	m.send(now, m.mtu)
}

func (m *Machine) becomeSearch(now time.Time) {
	m.become(stateSearch)
	m.next(now)
}

func (m *Machine) becomeDone(now time.Time) {
	m.become(stateDone)
	m.settle()
	m.searched = now
}

func (m *Machine) becomeFailed(now time.Time) {
	m.become(stateFailed)
	m.settle()
	m.mtu, m.wait = m.min, probeTimeout
	m.timeout = now.Add(m.wait)
}

// next probes the next size, or ends the search.
func (m *Machine) next(now time.Time) {
	m.high = min(m.high, m.max+1)
	if size := m.candidate(); size > 0 {
		m.send(now, size)
		return
	}
	m.becomeDone(now)
}

// candidate returns a size between the confirmed one and the least that is too
// large, 0 if nothing is worth a probe.
func (m *Machine) candidate() int {
	hint := m.hint
	m.hint = 0
	if hint > m.mtu && hint < m.high {
		return hint
	}
	if m.high > m.max && m.mtu < m.max && m.mtu >= m.max-m.max/8 {
		return m.max // nearly there: most interfaces tell the truth
	}
	for _, size := range common {
		if size > m.mtu && size < m.high {
			return size
		}
	}
	if m.high-m.mtu <= grain {
		return 0
	}
	return m.mtu + (m.high-m.mtu)/2
}

// send makes size the probe under way.
func (m *Machine) send(now time.Time, size int) {
	m.probe, m.tries = size, 1
	m.timeout = now.Add(probeTimeout)
}

// settle forgets the probe under way.
func (m *Machine) settle() { m.probe, m.tries, m.timeout = 0, 0, time.Time{} }

// lost is what follows when the probe under way was not answered in time.
func (m *Machine) lost(now time.Time) {
	if m.state == stateFailed {
		m.retryBase(now)
		return
	}
	if m.tries < maxProbes {
		m.tries++
		m.timeout = now.Add(probeTimeout)
		return
	}
	size := m.probe
	m.settle()
	switch m.state {
	case stateBase:
		m.becomeFailed(now)
	case stateSearch:
		m.high = size
		m.next(now)
	case stateDone:
		// The current size has passed and does no more: a black hole (RFC 8899,
		// Section 4.3), or an outage, after which it passes again.
		m.becomeBase(now, size+1, size)
	}
}

// retryBase tries the base again, more and more seldom: the peer may be gone,
// and that is for others to find out.
func (m *Machine) retryBase(now time.Time) {
	m.probe, m.tries = min(m.base, m.max), m.tries+1
	m.wait = min(2*m.wait, failedMax)
	m.timeout = now.Add(m.wait)
}
