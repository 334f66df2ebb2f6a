package filter

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"icvpn/internal/ippkt"
)

// wish describes a packet; the twin judges the description, the filter the bytes.
type wish struct {
	out          bool
	v6           bool
	kind         string // tcp udp other request reply
	sport, dport uint16
	flags        byte
}

func (w wish) bytes() []byte {
	e := ends[b2i(w.v6)]
	src, dst := e[0], e[1]
	if !w.out {
		src, dst = dst, src
	}
	echo := func(v4, v6 byte) []byte { return icmpMessage(map[bool]byte{false: v4, true: v6}[w.v6]) }
	switch w.kind {
	case "tcp":
		return ip(src, dst, ipTCP, tcp(w.sport, w.dport, w.flags))
	case "udp":
		return ip(src, dst, ipUDP, udp(w.sport, w.dport))
	case "request":
		return ip(src, dst, icmpProto(src), echo(8, 128))
	case "reply":
		return ip(src, dst, icmpProto(src), echo(0, 129))
	}
	return ip(src, dst, 132, []byte("sctp"))
}

// twin is the filter as one would first write it: it goes through the rules for
// each packet and never forgets a flow before its time.
type twin struct {
	rules     []Rule
	own, peer map[string]string
	flows     map[string]time.Time
}

func (t *twin) ruled(out bool, kind string, port uint16) bool {
	from, to := t.own, t.peer
	if !out {
		from, to = to, from
	}
	for _, r := range t.rules {
		if !r.From.Matches(from) || !r.To.Matches(to) {
			continue
		}
		if kind == "echo" || r.Proto == "" || r.Proto == ProtoAny {
			return true
		}
		if string(r.Proto) != kind {
			continue
		}
		if len(r.Ports) == 0 {
			return true
		}
		for _, p := range r.Ports {
			if p.First <= port && port <= p.Last {
				return true
			}
		}
	}
	return false
}

func (t *twin) judge(w wish, now time.Time) bool {
	switch w.kind {
	case "request":
		return t.ruled(w.out, "echo", 0)
	case "reply":
		return t.ruled(!w.out, "echo", 0)
	case "other":
		w.sport, w.dport = 0, 0
	}
	flow := fmt.Sprint(w.out, w.v6, w.kind, w.sport, w.dport)
	answered := fmt.Sprint(!w.out, w.v6, w.kind, w.dport, w.sport)
	if t.ruled(w.out, w.kind, w.dport) {
		t.flows[flow] = now
		return true
	}
	if w.kind == "tcp" {
		starts := w.flags&fACK == 0 && (w.flags&fRST == 0 || w.flags&fSYN != 0)
		return t.ruled(!w.out, "tcp", w.sport) && !starts
	}
	if at, ok := t.flows[answered]; ok && now.Sub(at) < flowIdle {
		t.flows[answered] = now
		return true
	}
	return false
}

func randomRules(r *rand.Rand) []Rule {
	selectors := []Selector{{}, {"role": "web"}, {"role": "app"}, {"role": "web", "env": "prod"}, {"env": "prod"}}
	var rules []Rule
	for range r.IntN(4) {
		x := Rule{From: selectors[r.IntN(5)], To: selectors[r.IntN(5)], Proto: []Proto{"", ProtoAny, ProtoTCP, ProtoUDP, ProtoICMP}[r.IntN(5)]}
		if x.Proto == ProtoTCP || x.Proto == ProtoUDP {
			for range r.IntN(3) {
				p := uint16(r.IntN(6))
				x.Ports = append(x.Ports, Ports(p, p+uint16(r.IntN(3))))
			}
		}
		rules = append(rules, x)
	}
	return rules
}

func TestPairAgainstDumbTwin(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	machines := []map[string]string{{"role": "web"}, {"role": "app"}, {"role": "web", "env": "prod"}, {}}
	for round := range 2000 {
		d := &twin{randomRules(r), machines[r.IntN(4)], machines[r.IntN(4)], map[string]time.Time{}}
		p := Compile(d.rules, d.own, d.peer)
		now := start
		for range 100 {
			now = now.Add(time.Duration(r.IntN(40)) * time.Second)
			w := wish{r.IntN(2) == 0, r.IntN(2) == 0, []string{"tcp", "udp", "udp", "other", "request", "reply"}[r.IntN(6)], uint16(r.IntN(8)), uint16(r.IntN(8)), byte(r.IntN(64))}
			var got bool
			if w.out {
				got = p.Outbound(w.bytes(), now)
			} else {
				got = p.Inbound(w.bytes(), now) == Pass
			}
			if want := d.judge(w, now); got != want {
				t.Fatalf("round %d: %+v passes: %v, twin says %v; own %v, peer %v, rules %+v", round, w, got, want, d.own, d.peer, d.rules)
			}
		}
	}
}

// FuzzJudge feeds arbitrary bytes: no panic, no surprise about who may talk.
func FuzzJudge(f *testing.F) {
	for _, e := range ends {
		f.Add(ip(e[0], e[1], ipTCP, tcp(1, 80, fSYN)))
		f.Add(ip(e[0], e[1], ipUDP, udp(1, 53)))
		f.Add(ip(e[0], e[1], icmpProto(e[0]), icmpMessage(3, ip(e[1], e[0], ipUDP, udp(53, 1))...)))
	}
	f.Add(fragment4(ip(own4, peer4, ipUDP, udp(1, 53)), 1, 0, true))
	f.Add(ip6(own6, peer6, ipFragment, fragmentHeader6(ipTCP, 1, 0, true, tcp(1, 80, fSYN))))
	f.Fuzz(func(t *testing.T, b []byte) {
		nobody := Compile(nil, nil, nil)
		if nobody.Outbound(b, start) || nobody.Inbound(b, start) == Pass {
			t.Errorf("passed without a rule: %x", b)
		}
		one := webToApp(ProtoTCP, Port(80))
		all := Compile([]Rule{{From: Selector{}, To: Selector{}}}, nil, nil)
		if one.Outbound(b, start) && !all.Outbound(b, start) {
			t.Errorf("a narrow rule allows more than a wide one: %x", b)
		}
		src, dst, ok := ippkt.Endpoints(b)
		if all.Inbound(b, start) == Pass && (!ok || src == (netip.Addr{}) || dst == (netip.Addr{})) {
			t.Errorf("passed without addresses: %x", b)
		}
	})
}

func FuzzRange(f *testing.F) {
	f.Add("80")
	f.Add("80-90")
	f.Fuzz(func(t *testing.T, s string) {
		var r, again Range
		if r.UnmarshalText([]byte(s)) != nil {
			return
		}
		if err := again.UnmarshalText([]byte(r.String())); err != nil || again != r || r.First > r.Last {
			t.Errorf("%q is %v, then %v, %v", s, r, again, err)
		}
	})
}
