package underlay

import "sync/atomic"

// Stats counts what a Conn moved and what it could not. All fields only grow.
type Stats struct {
	ReadPackets  atomic.Uint64
	ReadBytes    atomic.Uint64
	ReadTooLong  atomic.Uint64 // datagram longer than its buffer, dropped
	ReadErrors   atomic.Uint64 // errors survived while reading, ICMP among them
	WritePackets atomic.Uint64
	WriteBytes   atomic.Uint64
	WriteErrors  atomic.Uint64 // datagrams the kernel refused
}
