package manual

import (
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"icvpn/esp"
	"icvpn/internal/underlay"
)

// otherStats count what is not ESP.
type otherStats struct{ keepalives, control, junk atomic.Uint64 }

func (s *otherStats) count(b []byte) {
	switch underlay.Classify(b) {
	case underlay.Keepalive:
		s.keepalives.Add(1)
	case underlay.Control, underlay.Relayed:
		s.control.Add(1)
	default:
		s.junk.Add(1)
	}
}

// writeCounters writes what happened since the start.
func (r *runner) writeCounters(w io.Writer) {
	if w == nil {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "after %v:\n", time.Since(r.began).Round(time.Second))
	for _, p := range r.peers {
		p.write(&b)
	}
	r.writeDrops(&b)
	_, _ = io.WriteString(w, b.String()) // nobody reads: nothing to be done
}

func (p *peer) write(b *strings.Builder) {
	s := p.tunnel.Stats()
	heard := "never heard"
	if at := p.heardAt.Load(); at != 0 {
		heard = fmt.Sprintf("heard %v ago", time.Since(time.Unix(0, at)).Round(time.Second))
	}
	fmt.Fprintf(b, "  %-12s %v, %s\n", p.cfg.Name, p.cfg.Remote, heard)
	fmt.Fprintf(b, "    sent     %10d packets %14d bytes  sequence %d\n", s.TxPackets.Load(), s.TxBytes.Load(), p.out.LastSeq())
	fmt.Fprintf(b, "    received %10d packets %14d bytes  sequence %d\n", s.RxPackets.Load(), s.RxBytes.Load(), p.in.LastSeq())
	writeReasons(b, "    not sent", &p.sent)
	writeReasons(b, "    not received", &p.received)
}

// writeReasons lists drops, if there were any.
func writeReasons(b *strings.Builder, title string, s *esp.Stats) {
	var parts []string
	for _, d := range esp.Drops() {
		if n := s.Dropped(d); n > 0 {
			parts = append(parts, fmt.Sprintf("%v %d", d, n))
		}
	}
	if len(parts) > 0 {
		fmt.Fprintf(b, "%s: %s\n", title, strings.Join(parts, ", "))
	}
}

func (r *runner) writeDrops(b *strings.Builder) {
	writeReasons(b, "  no SA", &r.sad.Stats)
	d := r.path.Stats()
	var parts []string
	for _, c := range []struct {
		name string
		n    *atomic.Uint64
	}{
		{"queue full", &d.QueueDrops},
		{"no IP packet", &d.NotIP},
		{"no route", &d.Unrouted},
		{"too long", &d.TooLong},
		{"ICMP errors sent", &d.TooBigSent},
		{"fragmented", &d.Fragmented},
		{"MSS lowered", &d.Clamped},
		{"congestion marked", &d.Congestion},
		{"refused by the kernel", &d.NotSent},
		{"keepalives", &r.other.keepalives},
		{"control datagrams", &r.other.control},
		{"neither ESP nor keepalive", &r.other.junk},
	} {
		if n := c.n.Load(); n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", c.name, n))
		}
	}
	if len(parts) > 0 {
		fmt.Fprintf(b, "  %s\n", strings.Join(parts, ", "))
	}
}
