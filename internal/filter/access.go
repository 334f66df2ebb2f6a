package filter

import (
	"cmp"
	"slices"
)

// access is what the rules allow in one direction between two machines.
type access struct {
	some  bool  // at least one rule
	other bool  // every protocol
	tcp   ports // by destination port
	udp   ports
}

// ports is sorted and its ranges neither overlap nor touch.
type ports []Range

var allPorts = Ports(0, 65535)

func compile(rules []Rule, from, to map[string]string) (a access) {
	for r := range sound(rules) {
		if r.From.Matches(from) && r.To.Matches(to) {
			a.allow(r)
		}
	}
	a.tcp, a.udp = a.tcp.merged(), a.udp.merged()
	return a
}

func (a *access) allow(r Rule) {
	a.some = true
	open := r.Ports
	if len(open) == 0 {
		open = []Range{allPorts}
	}
	switch r.Proto {
	case ProtoTCP:
		a.tcp = append(a.tcp, open...)
	case ProtoUDP:
		a.udp = append(a.udp, open...)
	case ProtoAny, "":
		a.other = true
		a.tcp = append(a.tcp, allPorts)
		a.udp = append(a.udp, allPorts)
	}
}

// permits says whether a packet of class c to this port may begin a flow. ICMP
// is judged elsewhere.
func (a *access) permits(c class, port uint16) bool {
	switch c {
	case classTCP:
		return a.tcp.has(port)
	case classUDP:
		return a.udp.has(port)
	case classOther:
		return a.other
	}
	return false
}

func (p ports) merged() ports {
	slices.SortFunc(p, func(a, b Range) int { return cmp.Compare(a.First, b.First) })
	var out ports
	for _, r := range p {
		if n := len(out); n > 0 && int(r.First) <= int(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

func (p ports) has(port uint16) bool {
	lo, hi := 0, len(p)
	for lo < hi {
		switch m := (lo + hi) / 2; {
		case port < p[m].First:
			hi = m
		case port > p[m].Last:
			lo = m + 1
		default:
			return true
		}
	}
	return false
}
