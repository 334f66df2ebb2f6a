package directory

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// Who lacks many shards asks a super peer for all of them at once, on a TLS 1.3
// connection (docs/protocol/directory.md, "Many shards at once"): a directory of
// ten thousand is some 1700 items in the overlay.
//
//	member                                              super peer
//	  |  TLS 1.3, ALPN icvpn-directory/1, both keys shown      |  a member?
//	  |-- Request: versions of shards, of super peers -------->|
//	  |<- Part: a sealed shard ------- as many as it has of it |
//	  |<- end: an empty message ------------------------------ |
//
// Nothing is believed of it: a part counts if the root, read in the overlay and
// signed, names its hash (Follower.TakeSealed). What is missing is read in the
// overlay.

// BulkALPN names the protocol in the TLS handshake.
const BulkALPN = "icvpn-directory/1"

// We chose:
const (
	// MaxBulk is how many shards one request names, of MaxBulkOf super peers.
	MaxBulk   = 4096
	MaxBulkOf = 64

	bulkVersion    = 1
	maxBulkRequest = 96 << 10
	maxBulkPart    = MaxShard + sealOverhead + 32
)

// Request asks for shards.
type Request struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Of      []RequestOf
}

// RequestOf is what is asked of one super peer's directory, once in a request; numbers
// of shards ascend.
type RequestOf struct {
	_      struct{} `cbor:",toarray"`
	Issuer id.ID
	Shards []Version
}

// Version is a shard as a root names it.
type Version struct {
	_      struct{} `cbor:",toarray"`
	Number uint32
	Seq    int64
}

// Part is one shard of an answer.
type Part struct {
	_      struct{} `cbor:",toarray"`
	Of     uint8    // index into Request.Of
	Number uint32
	Sealed []byte
}

var errBulk = errors.New("directory: malformed message about many shards")

// Write writes the request to w.
func (r Request) Write(w io.Writer) error {
	r.Version = bulkVersion
	return wire.WriteMessage(w, wire.Marshal(r))
}

// ReadRequest reads what Request.Write wrote. It allocates as bytes come.
func ReadRequest(r io.Reader) (Request, error) {
	b, err := wire.ReadMessage(r, maxBulkRequest)
	if err != nil {
		return Request{}, err
	}
	return parseRequest(b)
}

func parseRequest(b []byte) (req Request, err error) {
	if err := wire.Unmarshal(b, &req, maxBulkRequest); err != nil {
		return Request{}, fmt.Errorf("%w: %w", errBulk, err)
	}
	// Each shard once: what is asked for twice would be sent twice.
	n, once := 0, map[id.ID]bool{}
	for _, of := range req.Of {
		n += len(of.Shards)
		for i := 1; i < len(of.Shards); i++ {
			if of.Shards[i].Number <= of.Shards[i-1].Number {
				return Request{}, errBulk
			}
		}
		if once[of.Issuer] {
			return Request{}, errBulk
		}
		once[of.Issuer] = true
	}
	if req.Version != bulkVersion || len(req.Of) > MaxBulkOf || n > MaxBulk {
		return Request{}, errBulk
	}
	return req, nil
}

// Write writes the part to w.
func (p Part) Write(w io.Writer) error { return wire.WriteMessage(w, wire.Marshal(p)) }

// WriteEnd writes that there is no further part.
func WriteEnd(w io.Writer) error { return wire.WriteMessage(w, nil) }

// ReadPart reads what Part.Write wrote; at the end io.EOF.
func ReadPart(r io.Reader) (Part, error) {
	b, err := wire.ReadMessage(r, maxBulkPart)
	switch {
	case errors.Is(err, io.EOF):
		return Part{}, io.ErrUnexpectedEOF // the connection broke off
	case err != nil:
		return Part{}, fmt.Errorf("%w: %w", errBulk, err)
	case len(b) == 0:
		return Part{}, io.EOF
	}
	return parsePart(b)
}

func parsePart(b []byte) (p Part, err error) {
	if err := wire.Unmarshal(b, &p, maxBulkPart); err != nil {
		return Part{}, fmt.Errorf("%w: %w", errBulk, err)
	}
	return p, nil
}

// Shelf keeps sealed shards as they were published, for whoever asks for many at
// once. The zero value is ready; safe for concurrent use. It holds what directories
// hold, MaxShards of each super peer at most.
type Shelf struct {
	mu  sync.RWMutex
	all map[id.ID]map[uint32]shelved
}

type shelved struct {
	seq    int64
	sealed []byte
}

// Put keeps a version of a shard in place of any before. It takes sealed.
func (s *Shelf) Put(issuer id.ID, number uint32, seq int64, sealed []byte) {
	if number >= MaxShards {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[id.ID]map[uint32]shelved{}
	}
	if s.all[issuer] == nil {
		s.all[issuer] = map[uint32]shelved{}
	}
	s.all[issuer][number] = shelved{seq, sealed}
}

// Drop forgets a shard that nobody is in any more.
func (s *Shelf) Drop(issuer id.ID, number uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all[issuer], number)
}

// Keep forgets the directories of all but these super peers.
func (s *Shelf) Keep(issuers []id.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := map[id.ID]map[uint32]shelved{}
	for _, pid := range issuers {
		if m := s.all[pid]; m != nil {
			kept[pid] = m
		}
	}
	s.all = kept
}

// Get returns a version of a shard, nil if it is not there. Nobody may change it.
func (s *Shelf) Get(issuer id.ID, v Version) []byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if at := s.all[issuer][v.Number]; at.seq == v.Seq {
		return at.sealed
	}
	return nil
}

// Answer writes to w what is asked for and there, and the end.
func (s *Shelf) Answer(w io.Writer, req Request) error {
	for i, of := range req.Of {
		for _, v := range of.Shards {
			sealed := s.Get(of.Issuer, v)
			if sealed == nil {
				continue
			}
			if err := (Part{Of: uint8(i), Number: v.Number, Sealed: sealed}).Write(w); err != nil { //nolint:gosec // MaxBulkOf at most
				return err
			}
		}
	}
	return WriteEnd(w)
}
