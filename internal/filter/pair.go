package filter

import (
	"sync/atomic"
	"time"
)

// Verdict is what becomes of a packet.
type Verdict uint8

// The verdicts. A sender never learns which.
const (
	Pass          Verdict = iota
	DropMalformed         // not an IP packet, cut short, or source-routed
	DropNoRule            // no rule allows it in either direction
	DropNotReply          // from an open port, but answers nothing
	DropICMP              // an ICMP type that does not cross, or an error about nothing permitted
	DropFragment          // later fragment without a first, or overlapping its header

	verdictEnd
)

// String returns the word used in metrics.
func (v Verdict) String() string {
	if v >= verdictEnd {
		return "unknown"
	}
	return [verdictEnd]string{"pass", "malformed", "no_rule", "not_reply", "icmp", "fragment"}[v]
}

// Verdicts lists the drops, for the renderer of metrics.
func Verdicts() []Verdict {
	all := make([]Verdict, 0, verdictEnd-1)
	for v := DropMalformed; v < verdictEnd; v++ {
		all = append(all, v)
	}
	return all
}

// Stats counts drops, by direction.
type Stats struct {
	drops [2][verdictEnd]atomic.Uint64
}

// Dropped returns how many packets of a direction got verdict v.
func (s *Stats) Dropped(d Direction, v Verdict) uint64 {
	if v == Pass || v >= verdictEnd || d > FromPeer {
		return 0
	}
	return s.drops[d][v].Load()
}

// Direction of a packet or flow as this machine sees it.
type Direction uint8

// The directions.
const (
	ToPeer Direction = iota
	FromPeer
)

// Pair judges the packets of one tunnel. Safe for concurrent use.
type Pair struct {
	lanes [2]lane // by Direction
	stats Stats
}

// lane is one direction.
type lane struct {
	rules     access // set at start
	flows     table  // begun in this direction
	datagrams table  // fragmented ones that passed in this direction
}

// Compile returns the judge between a machine of our labels and one of the
// peer's. It borrows its arguments. Rules that Validate refuses allow nothing.
func Compile(rules []Rule, own, peer map[string]string) *Pair {
	p := new(Pair)
	for d, a := range [2]access{compile(rules, own, peer), compile(rules, peer, own)} {
		p.lanes[d].rules = a
		p.lanes[d].flows.limit, p.lanes[d].flows.idle = maxFlows, flowIdle
		p.lanes[d].datagrams.limit, p.lanes[d].datagrams.idle = maxDatagrams, fragmentIdle
	}
	return p
}

// Inherit takes over the flows of the Pair that this one replaces when the policy
// changes, so that what stays allowed is not cut. The new rules judge first: a
// flow they do not allow is answered no more. old is not to be used again.
func (p *Pair) Inherit(old *Pair) {
	for d := range p.lanes {
		p.lanes[d].flows.inherit(&old.lanes[d].flows)
	}
}

// MayInitiate says whether some rule lets us open flows to the peer.
func (p *Pair) MayInitiate() bool { return p.lanes[ToPeer].rules.some }

// MayBeReached says whether some rule lets the peer open flows to us.
func (p *Pair) MayBeReached() bool { return p.lanes[FromPeer].rules.some }

// Stats returns the live counters.
func (p *Pair) Stats() *Stats { return &p.stats }

// Outbound says whether an inner packet may go to the peer. It borrows pkt.
func (p *Pair) Outbound(pkt []byte, now time.Time) bool {
	return p.judge(ToPeer, pkt, now) == Pass
}

// Inbound judges an inner packet from the peer. It borrows pkt.
func (p *Pair) Inbound(pkt []byte, now time.Time) Verdict {
	return p.judge(FromPeer, pkt, now)
}

func (p *Pair) judge(d Direction, pkt []byte, now time.Time) Verdict {
	v := judge(&p.lanes[d], &p.lanes[1-d], pkt, now)
	if v != Pass {
		p.stats.drops[d][v].Add(1)
	}
	return v
}

// judge decides on a packet that travels along one lane; back is the other.
func judge(along, back *lane, pkt []byte, now time.Time) Verdict {
	p, ok := parse(pkt)
	if !ok {
		return DropMalformed
	}
	if p.later {
		return along.laterFragment(&p, now)
	}
	v := judgeWhole(along, back, &p, now)
	if v == Pass && p.first {
		along.datagrams.touch(p.datagram(), p.headerEnd(), now)
	}
	return v
}

// laterFragment follows its first. It must not reach into the header that was
// judged: the receiver might prefer its bytes.
func (l *lane) laterFragment(p *packet, now time.Time) Verdict {
	if end, ok := l.datagrams.find(p.datagram(), false, now); ok && p.offset >= end {
		return Pass
	}
	return DropFragment
}

func judgeWhole(along, back *lane, p *packet, now time.Time) Verdict {
	if p.class == classICMP {
		return judgeICMP(along, back, p)
	}
	if along.rules.permits(p.class, p.dport) {
		// TCP answers are told by their flags, and others may need no entry either.
		if p.class != classTCP && !back.rules.permits(p.class, p.sport) {
			along.flows.touch(p.flow(), 0, now)
		}
		return Pass
	}
	if !back.rules.permits(p.class, p.sport) {
		return DropNoRule
	}
	if p.class == classTCP && p.answers() {
		return Pass
	}
	if p.class != classTCP {
		if _, ok := back.flows.find(p.reverse(), true, now); ok {
			return Pass
		}
	}
	return DropNotReply
}

func judgeICMP(along, back *lane, p *packet) Verdict {
	switch p.icmp() {
	case icmpEchoRequest:
		return passIf(along.rules.some, DropNoRule)
	case icmpEchoReply:
		return passIf(back.rules.some, DropNoRule)
	case icmpError:
		return passIf(quotesPermitted(along, back, p), DropICMP)
	}
	return DropICMP
}

func passIf(ok bool, otherwise Verdict) Verdict {
	if ok {
		return Pass
	}
	return otherwise
}

// quotesPermitted says whether an ICMP error speaks of a packet that the rules let
// travel the other way between the same two addresses. So a peer can disturb
// its own flows with us and nobody else's.
func quotesPermitted(along, back *lane, p *packet) bool {
	q, ok := parseQuoted(p.body[headerICMP:])
	if !ok || q.version != p.version || q.src != p.dst || q.dst != p.src {
		return false
	}
	if q.class == classICMP {
		switch q.icmp() {
		case icmpEchoRequest:
			return back.rules.some
		case icmpEchoReply:
			return along.rules.some
		}
		return false // never an error about an error: RFC 1122, Section 3.2.2
	}
	// It began a flow, or answered one.
	return back.rules.permits(q.class, q.dport) || along.rules.permits(q.class, q.sport)
}
