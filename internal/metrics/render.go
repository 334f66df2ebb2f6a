package metrics

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"icvpn/esp"
	"icvpn/internal/control"
	"icvpn/internal/port"
	"icvpn/internal/relay"
	"icvpn/internal/seal"
	"icvpn/internal/underlay"
	"icvpn/keyex"
	"icvpn/overlay"
	"icvpn/tun"
)

// writer renders one scrape. Each metric stands in one place: name, help, value.
type writer struct {
	out    chan<- prometheus.Metric
	common []label // of every metric
}

// of returns a writer of the metrics of one service of several.
func (w writer) of(service string) writer {
	return writer{w.out, append(w.common[:len(w.common):len(w.common)], label{"service", service})}
}

type label struct{ name, value string }

func (w writer) counter(name, help string, n uint64, labels ...label) {
	w.emit(prometheus.CounterValue, name, help, float64(n), labels)
}

func (w writer) gauge(name, help string, v float64, labels ...label) {
	w.emit(prometheus.GaugeValue, name, help, v, labels)
}

func (w writer) emit(typ prometheus.ValueType, name, help string, v float64, labels []label) {
	var names, values []string
	for _, l := range append(labels[:len(labels):len(labels)], w.common...) {
		names, values = append(names, l.name), append(values, l.value)
	}
	w.out <- prometheus.MustNewConstMetric(prometheus.NewDesc("icvpn_"+name, help, names, nil), typ, v, values...)
}

// reason is the label of a drop. The words of a String become one.
func reason(s string) label { return label{"reason", strings.ReplaceAll(s, " ", "_")} }

// sum adds up one field of several Stats.
func sum[S any](all []*S, field func(*S) uint64) (n uint64) {
	for _, s := range all {
		n += field(s)
	}
	return n
}

func (w writer) status(s control.Status) {
	up := 0.0
	if s.State == control.StateUp {
		up = 1
	}
	w.gauge("up", "Whether this machine takes part in its service: 1 when icvpn status says up.", up)
	if len(s.Services) > 0 {
		for _, of := range s.Services {
			w.of(of.Name).membership(of.CredentialExpires, of.Epoch, of.PeersKnown)
		}
		return
	}
	if s.CredentialExpires.IsZero() {
		return // not admitted yet
	}
	w.membership(s.CredentialExpires, s.Epoch, s.PeersKnown)
}

func (w writer) membership(expires time.Time, epoch uint32, members int) {
	w.gauge("credential_expiry_seconds", "Unix time at which the credential, or the owner's grant to the super peer, ends.", float64(expires.Unix()))
	w.gauge("epoch", "Number of the group key in use.", float64(epoch))
	w.gauge("members", "Members of the service that this process knows, itself excepted.", float64(members))
}

func (w writer) snapshot(s Snapshot, filtered []filtered) {
	if s.Underlay != nil {
		w.underlay(s.Underlay)
	}
	if s.Port != nil {
		w.port(s.Port)
	}
	if len(s.Control) > 0 {
		w.control(s.Control)
	}
	for i := range s.Overlays {
		w.overlay(&s.Overlays[i])
	}
	if s.Relay != nil {
		w.relay(s.Relay)
	}
	if s.Peer != nil {
		w.peer(s.Peer, filtered)
	}
	if s.Super != nil {
		w.super(s.Super)
	}
	for i := range s.Services {
		of, in := &s.Services[i], w.of(s.Services[i].Name)
		for j := range of.Overlays {
			in.overlay(&of.Overlays[j])
		}
		in.super(of.Super)
	}
}

func (w writer) underlay(s *underlay.Stats) {
	w.counter("underlay_received_datagrams_total", "UDP datagrams read from the port.", s.ReadPackets.Load())
	w.counter("underlay_received_bytes_total", "Payload bytes of those.", s.ReadBytes.Load())
	w.counter("underlay_sent_datagrams_total", "UDP datagrams sent from the port.", s.WritePackets.Load())
	w.counter("underlay_sent_bytes_total", "Payload bytes of those.", s.WriteBytes.Load())
	w.counter("underlay_received_trains_total", "Trains of datagrams that the kernel handed over as one (UDP GRO).", s.ReadTrains.Load())
	w.counter("underlay_sent_trains_total", "Trains of datagrams handed to the kernel as one (UDP GSO).", s.WriteTrains.Load())
	w.counter("underlay_refused_trains_total", "Trains that the kernel would not take: their datagrams were sent one by one.", s.TrainRefused.Load())
	const drops, help = "underlay_drops_total", "UDP datagrams lost between the kernel and this process, by reason."
	w.counter(drops, help, s.ReadTooLong.Load(), reason("too_long"))
	w.counter(drops, help, s.WriteErrors.Load(), reason("not_sent"))
	w.counter("underlay_read_errors_total", "Errors survived while reading, ICMP errors among them.", s.ReadErrors.Load())
}

func (w writer) port(s *port.Stats) {
	w.counter("port_keepalives_total", "NAT keepalives received (RFC 3948, Section 2.3).", s.Keepalives.Load())
	w.counter("port_junk_total", "Datagrams received that are neither ESP nor control nor keepalive.", s.Junk.Load())
}

func (w writer) relay(s *relay.Stats) {
	w.gauge("relay_allocations", "Members that this process relays for.", float64(s.Allocations.Load()))
	w.counter("relay_forwarded_datagrams_total", "Datagrams relayed between two members.", s.Packets.Load())
	w.counter("relay_forwarded_bytes_total", "Payload bytes of those, with the relay's header.", s.Bytes.Load())
	for _, d := range relay.Drops() {
		w.counter("relay_drops_total", "Datagrams that were to be relayed and were not, by the check that refused them.", s.Dropped(d), reason(d.String()))
	}
	for _, r := range relay.Requests() {
		w.counter("relay_requests_total", "Queries of members for an allocation, by result.", s.Requested(r), label{"result", r.String()})
	}
}

func (w writer) relayed(s *relay.ConnStats) {
	const packets, bytes = "relayed_datagrams_total", "relayed_bytes_total"
	const help, helpBytes = "Datagrams of this machine's own that went through a relay, by direction.", "Payload bytes of those, without the relay's header."
	w.counter(packets, help, s.TxPackets.Load(), label{"direction", "outbound"})
	w.counter(packets, help, s.RxPackets.Load(), label{"direction", "inbound"})
	w.counter(bytes, helpBytes, s.TxBytes.Load(), label{"direction", "outbound"})
	w.counter(bytes, helpBytes, s.RxBytes.Load(), label{"direction", "inbound"})
	w.counter("relayed_drops_total", "Datagrams for a relay at which this machine has no allocation any more.", s.NoRoute.Load())
}

func (w writer) control(all []*seal.Stats) {
	w.counter("control_received_datagrams_total", "Sealed control datagrams opened and accepted.", sum(all, (*seal.Stats).Opened))
	w.counter("control_sent_datagrams_total", "Control datagrams sealed.", sum(all, func(s *seal.Stats) uint64 { return s.Sealed.Load() }))
	for _, d := range seal.Drops() {
		w.counter("control_drops_total", "Control datagrams refused, by the check that refused them.",
			sum(all, func(s *seal.Stats) uint64 { return s.Dropped(d) }), reason(d.String()))
	}
}

func (w writer) overlay(o *Overlay) {
	in := label{"overlay", o.Name}
	s := o.Stats
	counts := []struct {
		name, help string
		n          *atomic.Uint64
		labels     []label
	}{
		{"received_datagrams_total", "DHT datagrams received.", &s.Received, nil},
		{"answered_queries_total", "DHT queries of others that were answered.", &s.Answered, nil},
		{"sent_queries_total", "DHT queries sent, repetitions not counted.", &s.Asked, nil},
		{"unanswered_queries_total", "DHT queries that nobody answered.", &s.Silent, nil},
		{"bootstraps_total", "Walks to the node's own ID.", &s.Bootstraps, nil},
		{"puts_total", "Puts of others, by result.", &s.Stored, []label{{"result", "stored"}}},
		{"puts_total", "Puts of others, by result.", &s.Refused, []label{{"result", "refused"}}},
		{"publications_total", "Publications of this process, by result.", &s.Published, []label{{"result", "quorum"}}},
		{"publications_total", "Publications of this process, by result.", &s.Unpublished, []label{{"result", "no_quorum"}}},
		{"contradictions_total", "Values in answers with a wrong signature, key or hash.", &s.Contradicted, nil},
	}
	for _, c := range counts {
		w.counter("overlay_"+c.name, c.help, c.n.Load(), append(c.labels, in)...)
	}
	for _, d := range overlay.Drops() {
		w.counter("overlay_drops_total", "DHT datagrams dropped, by reason.", s.Dropped(d), reason(d.String()), in)
	}
	w.gauge("overlay_nodes", "Nodes in the routing table.", float64(o.Nodes), in)
	w.gauge("overlay_stored_items", "Items kept for others.", float64(o.Items), in)
	w.gauge("overlay_stored_bytes", "Size of the items kept for others.", float64(o.Bytes), in)
}

func (w writer) peer(p *Peer, filtered []filtered) {
	w.esp(p.ESP)
	for _, f := range filtered {
		w.counter("filter_drops_total", "Inner packets that the service's access rules refused, by direction and reason.",
			f.n, label{"direction", f.direction}, reason(f.verdict.String()))
	}
	if p.TUN != nil {
		w.tun(p.TUN)
	}
	if p.Keyex != nil {
		w.keyex(p.Keyex)
	}
	for _, c := range p.Tunnels {
		w.gauge("tunnels", "Other members, by how far the tunnel to them is.", float64(c.N), label{"state", c.Name})
	}
	for _, c := range p.Drops {
		w.counter("node_drops_total", "Packets dropped between the parts of this process, by reason.", c.N, reason(c.Name))
	}
	helper := 0.0
	if p.Helper {
		helper = 1
	}
	w.gauge("helper", "Whether this machine is a helper of the service.", helper)
	for _, c := range p.Reflections {
		w.counter("helper_reflections_total", "Queries of members for their own address, by result.", c.N, label{"result", c.Name})
	}
	if p.Relayed != nil {
		w.relayed(p.Relayed)
	}
	w.gauge("clock_offset_seconds", "The service's clock minus this machine's, as learnt at admission.", p.ClockOffset.Seconds())
}

func (w writer) esp(all []*esp.Stats) {
	total := func(field func(*esp.Stats) *atomic.Uint64) uint64 {
		return sum(all, func(s *esp.Stats) uint64 { return field(s).Load() })
	}
	w.counter("inbound_packets_total", "Inner packets opened, before their source and the access rules are checked.",
		total(func(s *esp.Stats) *atomic.Uint64 { return &s.OpenedPackets }))
	w.counter("inbound_bytes_total", "Bytes of the inner packets opened.",
		total(func(s *esp.Stats) *atomic.Uint64 { return &s.OpenedBytes }))
	w.counter("outbound_packets_total", "Inner packets sealed.",
		total(func(s *esp.Stats) *atomic.Uint64 { return &s.SealedPackets }))
	w.counter("outbound_bytes_total", "Bytes of the inner packets sealed.",
		total(func(s *esp.Stats) *atomic.Uint64 { return &s.SealedBytes }))
	w.counter("outbound_dummies_total", "Dummy packets sealed (RFC 4303, Section 2.6).",
		total(func(s *esp.Stats) *atomic.Uint64 { return &s.SealedDummies }))
	for _, d := range esp.Drops() {
		w.counter("esp_drops_total", "ESP packets dropped, by reason.",
			sum(all, func(s *esp.Stats) uint64 { return s.Dropped(d) }), reason(d.String()))
	}
}

func (w writer) tun(s *tun.Stats) {
	w.counter("tun_read_packets_total", "Packets taken from the interface.", s.ReadPackets.Load())
	w.counter("tun_read_bytes_total", "Bytes taken from the interface.", s.ReadBytes.Load())
	w.counter("tun_written_packets_total", "Packets given to the interface.", s.WritePackets.Load())
	w.counter("tun_written_bytes_total", "Bytes given to the interface.", s.WriteBytes.Load())
	const drops, help = "tun_drops_total", "Packets lost between this process and its interface, by direction."
	w.counter(drops, help, s.ReadDrops.Load(), label{"direction", "read"})
	w.counter(drops, help, s.WriteDrops.Load(), label{"direction", "write"})
}

func (w writer) keyex(s *keyex.Stats) {
	w.counter("keyex_started_total", "Key exchanges begun by this machine.", s.Started.Load())
	const done, help = "keyex_completed_total", "Key exchanges that gave keys, by this machine's part."
	w.counter(done, help, s.Completed.Load(), label{"role", "initiator"})
	w.counter(done, help, s.Answered.Load(), label{"role", "responder"})
	w.counter("keyex_failed_total", "Key exchanges begun by this machine that failed.", s.Failed.Load())
	w.counter("keyex_repeated_answers_total", "Last messages sent again because the peer repeated its own.", s.Repeated.Load())
	for _, d := range keyex.DropReasons() {
		w.counter("keyex_drops_total", "Key exchange datagrams without effect, by reason.", s.Drops(d), reason(d.String()))
	}
}

func (w writer) super(s *Super) {
	for _, c := range s.Admissions {
		w.counter("admissions_total", "Admissions ended, by result; refusals by their code.", c.N, label{"result", c.Name})
	}
	w.gauge("admissions_running", "Admissions under way.", float64(s.Running))
	w.gauge("admission_ephemerals_ready", "SRP key pairs made ahead.", float64(s.Ephemerals))
	w.gauge("admission_attribute_keys_ready", "Attribute keys made ahead, for the label set that has fewest.", float64(s.AttributeKeys))
	for _, c := range s.KeysGiven {
		w.counter("admission_attribute_keys_total", "Attribute keys given out, by where they came from.", c.N, label{"kind", c.Name})
	}
	w.emit(prometheus.CounterValue, "admission_attribute_keys_seconds_total", "Processor time spent on attribute keys made ahead.", s.KeysAhead.Seconds(), nil)
	w.gauge("helpers", "Members that this super peer has promoted.", float64(s.Helpers))
	for _, c := range s.HelperProbes {
		w.counter("helper_probes_total", "Probes of helpers and candidates, by result.", c.N, label{"result", c.Name})
	}
	for _, c := range s.HelperChanges {
		w.counter("helper_changes_total", "Promotions, and demotions by reason.", c.N, label{"change", c.Name})
	}
	w.gauge("leases", "Addresses of this super peer's block that are leased.", float64(s.Leases))
	w.gauge("leases_limit", "Addresses in this super peer's block.", float64(s.MaxLeases))
}
