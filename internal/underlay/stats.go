package underlay

import "sync/atomic"

// Stats counts what a Conn moved and what it could not. All fields only grow.
type Stats struct {
	ReadPackets  atomic.Uint64 // datagrams, those within trains too
	ReadBytes    atomic.Uint64
	ReadTrains   atomic.Uint64 // trains they came in
	ReadTooLong  atomic.Uint64 // datagram longer than its buffer, dropped
	ReadErrors   atomic.Uint64 // errors survived while reading, ICMP among them
	WritePackets atomic.Uint64
	WriteBytes   atomic.Uint64
	WriteTrains  atomic.Uint64 // trains the kernel cut into datagrams
	TrainRefused atomic.Uint64 // trains it would not take: sent one by one
	WriteErrors  atomic.Uint64 // datagrams the kernel refused
}
