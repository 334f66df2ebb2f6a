package overlay

import "sync/atomic"

// Stats are the counters of a node since it was made, read without a lock.
type Stats struct {
	Received     atomic.Uint64 // datagrams handed to Deliver
	Answered     atomic.Uint64 // queries of others that we answered
	Asked        atomic.Uint64 // queries sent, resends not counted
	Silent       atomic.Uint64 // queries that nobody answered
	Bootstraps   atomic.Uint64 // walks to our own ID
	Stored       atomic.Uint64 // puts of others that we took
	Refused      atomic.Uint64 // puts of others that we refused
	Published    atomic.Uint64 // publications put with a quorum
	Unpublished  atomic.Uint64 // publications that found no quorum
	Contradicted atomic.Uint64 // values in answers with a wrong signature, key or hash

	drops [numDrops]atomic.Uint64
	hops  [maxHops]atomic.Uint64
	in    [numMessageTypes]Traffic
	out   [numMessageTypes]Traffic
}

// Traffic counts messages and what they come to with their padding, before sealing.
type Traffic struct{ Messages, Bytes atomic.Uint64 }

// MessageType is a type of message in Stats.
type MessageType uint8

// Types of messages.
const (
	MessagePing MessageType = iota
	MessageFindNode
	MessageGet
	MessagePut
	MessageAnswer
	MessageRefusal
	numMessageTypes
)

var messageNames = [numMessageTypes]string{"ping", "find_node", "get", "put", "answer", "refusal"}

// String returns the type as it stands in metrics.
func (t MessageType) String() string {
	if t < numMessageTypes {
		return messageNames[t]
	}
	return "unknown"
}

// MessageTypes returns every type.
func MessageTypes() []MessageType {
	return []MessageType{MessagePing, MessageFindNode, MessageGet, MessagePut, MessageAnswer, MessageRefusal}
}

// Sent counts the messages of a type that were sent, repetitions included.
func (s *Stats) Sent(t MessageType) *Traffic { return &s.out[t] }

// ReceivedOf counts the messages of a type that were received in good form.
func (s *Stats) ReceivedOf(t MessageType) *Traffic { return &s.in[t] }

// Hops returns how many lookups of items found theirs at which depth: at index 0
// those where a contact of ours had it, and so on; the last has all longer ones.
func (s *Stats) Hops() (lookups [maxHops]uint64) {
	for i := range lookups {
		lookups[i] = s.hops[i].Load()
	}
	return lookups
}

func (s *Stats) hop(depth int) { s.hops[min(depth, maxHops)-1].Add(1) }

func (s *Stats) received(m *message, n int) { s.in[m.typ()].add(m.padded(n)) }

func (s *Stats) sent(m *message, n int) { s.out[m.typ()].add(m.padded(n)) }

func (t *Traffic) add(n int) {
	t.Messages.Add(1)
	t.Bytes.Add(uint64(n))
}

func (m *message) typ() MessageType {
	switch {
	case m.kind == response:
		return MessageAnswer
	case m.kind == refusal:
		return MessageRefusal
	case m.q == ping:
		return MessagePing
	case m.q == findNode:
		return MessageFindNode
	case m.q == get:
		return MessageGet
	}
	return MessagePut
}

// Dropped returns how many datagrams were dropped for reason d.
func (s *Stats) Dropped(d Drop) uint64 { return s.drops[d].Load() }

func (s *Stats) drop(d Drop) { s.drops[d].Add(1) }
