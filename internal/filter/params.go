package filter

import "time"

// Bounds of a policy. They keep Compile quick and an ABE policy small.
const (
	maxRules  = 256
	maxLabels = 16 // in a selector
	maxPorts  = 32 // ranges in a rule
	maxLabel  = 64 // bytes of a label's key or value

	// reservedPrefix begins label keys that icvpn uses itself.
	reservedPrefix = "icvpn-"
)

// State of a pair, each direction.
const (
	// maxFlows bounds the flow table, some 500 kB when full.
	maxFlows = 4096

	// flowIdle is how long an idle flow is answered: RFC 4787, REQ-5 wants two
	// minutes at least for UDP, conntrack gives streams three.
	flowIdle = 180 * time.Second

	// maxDatagrams bounds the fragmented datagrams in flight.
	maxDatagrams = 256

	// fragmentIdle is Linux's net.ipv4.ipfrag_time.
	fragmentIdle = 30 * time.Second
)

// IP header fields: RFC 791, RFC 8200, RFC 792, RFC 4443.
const (
	header4 = 20
	header6 = 40

	headerTCP  = 20
	headerUDP  = 8
	headerICMP = 8

	ipHopByHop = 0
	ipICMP4    = 1
	ipTCP      = 6
	ipUDP      = 17
	ipRouting  = 43
	ipFragment = 44
	ipICMP6    = 58
	ipDestOpts = 60

	// maxExtensions bounds the walk over IPv6 extension headers.
	maxExtensions = 8
)
