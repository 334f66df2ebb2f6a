package promote

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"time"

	"icvpn/internal/id"
)

// Config bounds the helpers of each cloud. The zero value is usable.
type Config struct {
	// Min and Max helpers are in each cloud. Default DefaultMin and DefaultMax; Max
	// is at least Min.
	Min, Max int
}

// Machine decides. Make it with New.
type Machine struct {
	cfg      Config
	records  map[id.ID]*record    // candidates and helpers
	resting  map[id.ID]time.Time  // who did not answer, until when it has no place
	members  map[string]int       // of each cloud
	promoted map[string]time.Time // the last promotion in each cloud
	answered time.Time            // when anybody answered last
}

// New returns a machine that knows nobody.
func New(cfg Config) *Machine {
	return &Machine{
		cfg: cfg.withDefaults(), records: map[id.ID]*record{}, resting: map[id.ID]time.Time{}, members: map[string]int{}, promoted: map[string]time.Time{},
	}
}

func (c Config) withDefaults() Config {
	c.Min = cmp.Or(c.Min, DefaultMin)
	c.Max = max(c.Min, cmp.Or(c.Max, DefaultMax))
	return c
}

// Configure changes the bounds; the next Decide begins to follow them.
func (m *Machine) Configure(cfg Config) { m.cfg = cfg.withDefaults() }

// SetMembers says how many members each cloud has.
func (m *Machine) SetMembers(clouds map[string]int) { m.members = maps.Clone(clouds) }

// Room says how many more members of a cloud have a place among the candidates.
// Whoever does not answer holds none.
func (m *Machine) Room(cloud string) int {
	clouds := map[string]bool{cloud: true}
	all, here := 0, 0
	for _, r := range m.records {
		clouds[r.Cloud] = true
		if !r.helper && r.misses < restAfter {
			all++
			if r.Cloud == cloud {
				here++
			}
		}
	}
	return max(0, min(MaxCandidates-all, max(leastCandidates, MaxCandidates/len(clouds))-here))
}

// Wants says whether a member that is not asked yet may be.
func (m *Machine) Wants(now time.Time, pid id.ID) bool {
	_, asked := m.records[pid]
	until, rests := m.resting[pid]
	return !asked && (!rests || !now.Before(until))
}

// Observe takes in a candidate, or what has changed about one. Whoever finds no
// room is left out.
func (m *Machine) Observe(now time.Time, who Member) {
	r := m.records[who.PID]
	if r == nil {
		if !m.Wants(now, who.PID) || m.Room(who.Cloud) == 0 {
			return
		}
		m.makeRoom(now)
		delete(m.resting, who.PID)
		m.records[who.PID] = &record{Member: who, nextAt: now}
		return
	}
	if who.Addr != r.Addr || r.misses > 0 { // it answers now, or elsewhere
		r.nextAt = now
	}
	if r.Joined.Before(who.Joined) { // it has renewed
		who.Joined = r.Joined
	}
	r.Member = who
}

// Rest says that a member cannot be asked, and is not to be tried again for a while.
func (m *Machine) Rest(now time.Time, pid id.ID) {
	maps.DeleteFunc(m.resting, func(_ id.ID, until time.Time) bool { return !now.Before(until) })
	if len(m.resting) < maxResting {
		m.resting[pid] = now.Add(restLife)
	}
}

// Lost lists the candidates that do not answer where they are asked, and do not
// rest, in order of PID: they may have moved.
func (m *Machine) Lost(now time.Time) (all []Member) {
	for _, r := range m.sorted() {
		if !r.helper && r.misses >= restAfter && !now.Before(m.resting[r.PID]) {
			all = append(all, r.Member)
		}
	}
	return all
}

// Named says that another super peer has a member as a helper, or has it no more.
func (m *Machine) Named(pid id.ID, named bool) {
	if r := m.records[pid]; r != nil {
		r.Named = named
	}
}

// Asked lists everybody who is asked, in order of PID.
func (m *Machine) Asked() (all []Member) {
	for _, r := range m.sorted() {
		all = append(all, r.Member)
	}
	return all
}

func (m *Machine) sorted() []*record {
	return slices.SortedFunc(maps.Values(m.records), func(a, b *record) int { return bytes.Compare(a.PID[:], b.PID[:]) })
}

// Due returns whom to ask now, in order of PID, and takes it that they are.
func (m *Machine) Due(now time.Time) (all []Member) {
	for _, r := range m.sorted() {
		if !now.Before(r.nextAt) {
			r.nextAt = now.Add(2 * ProbeTimeout) // Probed says when next
			all = append(all, r.Member)
		}
	}
	return all
}

// Next is when somebody is due; the zero time if there is nobody.
func (m *Machine) Next() (at time.Time) {
	for _, r := range m.records {
		if at.IsZero() || r.nextAt.Before(at) {
			at = r.nextAt
		}
	}
	return at
}

// Probed takes in how a probe went.
func (m *Machine) Probed(now time.Time, pid id.ID, rtt time.Duration, answered bool) {
	r := m.records[pid]
	if r == nil {
		return
	}
	r.probed(now, rtt, answered)
	r.schedule(now)
	if answered {
		m.answered = now
	} else if r.helper && r.misses == 2 {
		m.hurry(now, r.Cloud)
	}
}

// hurry asks a few candidates of a cloud now: one may soon have to stand in, and if
// none of them answers either, it is we who are cut off.
func (m *Machine) hurry(now time.Time, cloud string) {
	left := leastCandidates
	for _, r := range m.sorted() {
		if left > 0 && r.Cloud == cloud && !r.helper && r.misses == 0 && r.probes > 0 {
			r.nextAt = now
			left--
		}
	}
}

// makeRoom has the candidate that is silent for longest give its place to somebody
// else, if there is none left.
func (m *Machine) makeRoom(now time.Time) {
	n, last := 0, (*record)(nil)
	for _, r := range m.sorted() {
		if r.helper {
			continue
		}
		n++
		if r.misses >= restAfter && (last == nil || r.misses > last.misses) {
			last = r
		}
	}
	if n < MaxCandidates || last == nil {
		return
	}
	delete(m.records, last.PID)
	m.Rest(now, last.PID)
}
