package superpeer

import (
	"container/list"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"icvpn/internal/control"
	"icvpn/internal/directory"
	"icvpn/internal/filter"
	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/provision"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// We chose:
const (
	// maxListed members are named to a newcomer; the directory has the rest. They
	// are those it is likely to talk to first: see roster.list.
	maxListed = 128
	// maxGroups label sets are looked at for that.
	maxGroups = 256
)

// roster is whom we and the other super peers list, in the orders in which an
// admission asks: by name, by labels. Each of its methods costs the same
// however many there are, except those that say so.
type roster struct {
	mu     sync.Mutex
	byKey  map[listedKey]*listed
	byName map[string][]*listed
	twice  map[string]bool // names that several machines bear
	pids   map[id.ID]int   // how many super peers list a machine
	groups map[string]*group
	recent *list.List // of *group, last joined first
}

// listedKey is one super peer's word for one machine; the zero issuer is us.
type listedKey struct{ issuer, pid id.ID }

type listed struct {
	key     listedKey
	name    string
	end     int64 // Unix seconds
	encoded []byte
	group   *group
	elem    *list.Element // in group.members
}

// group is the machines with one set of labels.
type group struct {
	text    string
	labels  map[string]string
	members *list.List    // of *listed, last joined first
	elem    *list.Element // in roster.recent
}

func newRoster() *roster {
	return &roster{
		byKey: map[listedKey]*listed{}, byName: map[string][]*listed{}, twice: map[string]bool{}, pids: map[id.ID]int{},
		groups: map[string]*group{}, recent: list.New(),
	}
}

// own enters a member of ours.
func (r *roster) own(e *ledger.Entry) {
	r.put(listedKey{pid: e.PID()}, e.Member.Name, e.Member.Labels, e.Member.NotAfter, e.Encoded())
}

// dropOwn takes out a member of ours.
func (r *roster) dropOwn(pid id.ID) { r.remove(listedKey{pid: pid}) }

// others takes in what another super peer's directory changed.
func (r *roster) others(d directory.Diff) {
	for _, e := range d.Gone {
		r.remove(listedKey{e.Issuer(), e.PID()})
	}
	for _, e := range slices.Concat(d.Joined, d.Changed) {
		m := e.Member()
		m.Claim = nil
		r.put(listedKey{e.Issuer(), e.PID()}, m.Name, m.Labels, m.NotAfter, wire.Marshal(m))
	}
}

func (r *roster) put(key listedKey, name string, labels map[string]string, end int64, encoded []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removeLocked(key)
	g := r.groupLocked(labels)
	l := &listed{key: key, name: name, end: end, encoded: encoded, group: g}
	l.elem = g.members.PushFront(l)
	r.recent.MoveToFront(g.elem)
	r.byKey[key] = l
	r.pids[key.pid]++
	r.byName[name] = append(r.byName[name], l)
	r.countNameLocked(name)
}

func (r *roster) groupLocked(labels map[string]string) *group {
	text := service.LabelText(labels)
	g := r.groups[text]
	if g == nil {
		g = &group{text: text, labels: maps.Clone(labels), members: list.New()}
		g.elem = r.recent.PushFront(g)
		r.groups[text] = g
	}
	return g
}

func (r *roster) remove(key listedKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removeLocked(key)
}

func (r *roster) removeLocked(key listedKey) {
	l := r.byKey[key]
	if l == nil {
		return
	}
	delete(r.byKey, key)
	if r.pids[key.pid]--; r.pids[key.pid] == 0 {
		delete(r.pids, key.pid)
	}
	if l.group.members.Remove(l.elem); l.group.members.Len() == 0 {
		r.recent.Remove(l.group.elem)
		delete(r.groups, l.group.text)
	}
	r.byName[l.name] = slices.DeleteFunc(r.byName[l.name], func(o *listed) bool { return o == l })
	r.countNameLocked(l.name)
}

// countNameLocked notes whether several machines bear a name.
func (r *roster) countNameLocked(name string) {
	all := r.byName[name]
	if len(all) == 0 {
		delete(r.byName, name)
	}
	if slices.ContainsFunc(all, func(l *listed) bool { return l.key.pid != all[0].key.pid }) {
		r.twice[name] = true
	} else {
		delete(r.twice, name)
	}
}

// len returns how many machines are listed.
func (r *roster) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.pids)
}

// namesakes returns the other members with a name, by the first digits of their
// PIDs, a few at most.
func (r *roster) namesakes(name string, pid id.ID, now time.Time) (others []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.byName[name][:min(len(r.byName[name]), maxNamesakes)] {
		if short := l.key.pid.Short(); l.key.pid != pid && now.Unix() < l.end && !slices.Contains(others, short) {
			others = append(others, short)
		}
	}
	return others
}

// maxNamesakes bounds a line of the log.
const maxNamesakes = 16

// warnings returns a sentence for each name that several machines bear.
func (r *roster) warnings(now time.Time) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := control.Names{}
	for name := range r.twice {
		for _, l := range r.byName[name] {
			if now.Unix() < l.end {
				names.Add(name, l.key.pid.String())
			}
		}
	}
	return names.Warnings()
}

// list returns the peer list for a machine with these labels: those that it may
// reach, or that may reach it, then others, each group's newest first. It costs
// as much as it is long.
func (r *roster) list(rules []filter.Rule, labels map[string]string, now time.Time) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	var near, far []*group
	for e := r.recent.Front(); e != nil && len(near)+len(far) < maxGroups; e = e.Next() {
		g := e.Value.(*group)
		if concern(rules, labels, g.labels) {
			near = append(near, g)
		} else {
			far = append(far, g)
		}
	}
	members := make([][]byte, 0, maxListed)
	seen := make(map[id.ID]bool, maxListed)
	for _, g := range append(near, far...) {
		for e := g.members.Front(); e != nil && len(members) < maxListed; e = e.Next() {
			l := e.Value.(*listed)
			if now.Unix() < l.end && !seen[l.key.pid] {
				seen[l.key.pid] = true
				members = append(members, l.encoded)
			}
		}
	}
	return provision.EncodeList(members)
}

// concern says whether machines with these labels may begin to talk to each
// other, either way.
func concern(rules []filter.Rule, a, b map[string]string) bool {
	return slices.ContainsFunc(rules, func(r filter.Rule) bool {
		return r.From.Matches(a) && r.To.Matches(b) || r.From.Matches(b) && r.To.Matches(a)
	})
}

// members returns one entry for each machine, for people who ask, sorted by
// name: it costs as much as there are.
func (a *authority) members(now time.Time) (all []service.Member) {
	own := map[id.ID]bool{}
	for _, e := range a.ledger.Members() {
		if m := e.Member; now.Unix() < m.NotAfter {
			m.Claim, own[e.PID()] = nil, true
			all = append(all, m)
		}
	}
	for _, e := range a.others.Members(now) { // their super peers may be gone
		if !own[e.PID()] {
			all = append(all, e.Member())
		}
	}
	slices.SortFunc(all, func(x, y service.Member) int { return strings.Compare(x.Name, y.Name) })
	return all
}
