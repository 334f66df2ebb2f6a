package keypool

import (
	"errors"
	"fmt"
	"io"
	"log/slog"

	"icvpn/abe"
	"icvpn/internal/wire"
)

// ALPN names the protocol in the TLS handshake.
const ALPN = "icvpn-keys/1"

// We chose:
const (
	// MaxKeys is how many keys one request asks for: an authority needs some 150 ms
	// for each.
	MaxKeys = 4
	// MaxSets is how many label sets one request names.
	MaxSets = 64

	maxRequest   = 160 << 10
	maxAnswer    = 3 << 20 // MaxSets and two more envelopes of the longest kind are 2.2 MB
	maxLabels    = 17      // a machine's 16, and the one that every member has
	maxToken     = 63      // of a label's key or value
	maxSlot      = 24 << 10
	maxParams    = 8 << 10
	maxStatement = 600
	maxEnvelope  = 32 << 10
	version      = 1
)

// Request asks for the policies of label sets (Keys is 0), or for keys of one
// label set.
type Request struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Keys    uint8
	Sets    []map[string]string
}

// Code says what an authority makes of a request.
type Code uint8

// Codes of an Answer.
const (
	OK    Code = iota
	Scope      // a label is outside the scope that the owners gave the requester
	Quota      // it has had all that it may have today
	None       // the other side has no master key, or is no authority any more
)

func (c Code) String() string {
	switch c {
	case OK:
		return "ok"
	case Scope:
		return "a label is outside this super peer's scope"
	case Quota:
		return "this super peer has had all keys that it may have in a day"
	}
	return "the other super peer makes no keys"
}

// Answer is what an authority hands out. Its slots and seeds are secret.
type Answer struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Code    Code
	// Of a request for policies.
	Params   []byte // the ABE parameters, which the descriptor's hash pins
	Policies []Policy
	// Of a request for keys.
	Slots   [][]byte // abe.Slot.Bytes
	Expires int64    // Unix seconds: those that are left are to be erased then
}

// Policy is what machines are handed for a policy: it is public. The seed is
// there for the two policies that the requester has to open, those of requests
// to itself and of directories.
type Policy struct {
	_         struct{} `cbor:",toarray"`
	Statement []byte   // abe.Statement, of the epoch in force
	Next      []byte   // the same of the epoch that is announced, or empty
	Envelope  []byte   // abe.Envelope
	Seed      []byte   // abe.SecretSize, or empty
}

// LogValue keeps every secret out of logs.
func (a Answer) LogValue() slog.Value { return slog.StringValue(a.String()) }

// String keeps every secret out of formatted text.
func (a Answer) String() string {
	return fmt.Sprintf("answer %d with %d policies and %d keys", a.Code, len(a.Policies), len(a.Slots))
}

// GoString keeps every secret out of %#v.
func (a Answer) GoString() string { return a.String() }

// Wipe erases what is secret.
func (a *Answer) Wipe() {
	for _, p := range a.Policies {
		clear(p.Seed)
	}
	for _, s := range a.Slots {
		clear(s)
	}
}

// Encode returns r's bytes.
func (r Request) Encode() []byte { r.Version = version; return wire.Marshal(r) }

// Encode returns a's bytes.
func (a Answer) Encode() []byte { a.Version = version; return wire.Marshal(a) }

var errMalformed = errors.New("keypool: malformed message")

// ParseRequest reads what Encode wrote.
func ParseRequest(b []byte) (r Request, err error) {
	if err := wire.Unmarshal(b, &r, maxRequest); err != nil {
		return Request{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	ok := r.Version == version && r.Keys <= MaxKeys && len(r.Sets) <= MaxSets && (r.Keys == 0 || len(r.Sets) == 1)
	for _, set := range r.Sets {
		ok = ok && len(set) <= maxLabels
		for k, v := range set {
			ok = ok && k != "" && len(k) <= maxToken && len(v) <= maxToken
		}
	}
	if !ok {
		return Request{}, errMalformed
	}
	return r, nil
}

// ParseAnswer reads what Encode wrote. What signatures and keys are worth is for
// package abe to say.
func ParseAnswer(b []byte) (a Answer, err error) {
	if err := wire.Unmarshal(b, &a, maxAnswer); err != nil {
		return Answer{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	ok := a.Version == version && len(a.Params) <= maxParams && len(a.Policies) <= MaxSets+2 && len(a.Slots) <= MaxKeys && a.Expires >= 0
	for _, p := range a.Policies {
		ok = ok && len(p.Statement) <= maxStatement && len(p.Next) <= maxStatement && len(p.Envelope) <= maxEnvelope &&
			(len(p.Seed) == 0 || len(p.Seed) == abe.SecretSize)
	}
	for _, s := range a.Slots {
		ok = ok && len(s) <= maxSlot
	}
	if !ok {
		return Answer{}, errMalformed
	}
	return a, nil
}

// Write writes one message. It makes no copy of it.
func Write(w io.Writer, b []byte) error { return wire.WriteMessage(w, b) }

// ReadRequest reads a message that should be a request.
func ReadRequest(r io.Reader) (Request, error) {
	b, err := wire.ReadMessage(r, maxRequest)
	if err != nil {
		return Request{}, err
	}
	return ParseRequest(b)
}

// ReadAnswer reads a message that should be an answer.
func ReadAnswer(r io.Reader) (Answer, error) {
	b, err := wire.ReadMessage(r, maxAnswer)
	if err != nil {
		return Answer{}, err
	}
	defer clear(b)
	return ParseAnswer(b)
}
