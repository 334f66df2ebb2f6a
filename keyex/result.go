package keyex

import (
	"fmt"
	"io"
	"log/slog"

	"icvpn/internal/id"
)

// Suite is the number of an ESP suite. This package only carries it.
type Suite uint8

// Keys are the traffic keys of one direction. A key the suite has no use for
// is nil.
type Keys struct {
	Enc, Int, IV, Salt []byte
}

// Wipe erases the keys.
func (k *Keys) Wipe() {
	for _, b := range [][]byte{k.Enc, k.Int, k.IV, k.Salt} {
		clear(b)
	}
	*k = Keys{}
}

// Format never shows a key, whatever the verb.
func (k Keys) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// String shows lengths only.
func (k Keys) String() string {
	return fmt.Sprintf("keyex.Keys{enc %d, int %d, iv %d, salt %d bytes}", len(k.Enc), len(k.Int), len(k.IV), len(k.Salt))
}

// MarshalText shows lengths only; encoding/json calls it.
func (k Keys) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// LogValue shows lengths only.
func (k Keys) LogValue() slog.Value { return slog.StringValue(k.String()) }

// Result is a finished exchange. The initiator's is confirmed. The responder's
// is not: install SPIIn, do not send on SPIOut and keep the old pair until a
// packet verifies on SPIIn.
type Result struct {
	Peer      Peer
	Initiator bool // we began this exchange
	Replaced  bool // responder only: an exchange of our own with this peer ended in favour of this one
	Path      Path // the one that answered
	Epoch     uint32
	Suite     Suite
	Group     Group
	SPIIn     uint32 // ours: we receive on it
	SPIOut    uint32 // the peer's

	In, Out       Keys
	CtlIn, CtlOut [32]byte // keys of control messages inside the tunnel
	Rekey         [32]byte // rk of the next exchange, under the name RekeyID
	RekeyID       [8]byte
	Transcript    hash // H_T, the same at both ends
}

// Preferred returns which of two pairs that were completed at the same time
// with one peer carries traffic: the one whose initiator has the lower PID.
// Both ends choose the same. It is not for a pair and its rekeyed successor.
func (r *Result) Preferred(self id.ID) bool {
	return r.Initiator == (self.Compare(r.Peer.PID) < 0)
}

// Wipe erases all secrets.
func (r *Result) Wipe() {
	r.In.Wipe()
	r.Out.Wipe()
	clear(r.CtlIn[:])
	clear(r.CtlOut[:])
	clear(r.Rekey[:])
}

// Format never shows a key, whatever the verb.
func (r Result) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, r.String()) }

// String names the pair, without secrets.
func (r Result) String() string {
	return fmt.Sprintf("keyex.Result{peer %s, initiator %t, path %v, epoch %d, suite %d, group %v, spi in %08x out %08x}",
		r.Peer.PID.Short(), r.Initiator, r.Path, r.Epoch, r.Suite, r.Group, r.SPIIn, r.SPIOut)
}

// MarshalText names the pair, without secrets; encoding/json calls it.
func (r Result) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// LogValue names the pair, without secrets.
func (r Result) LogValue() slog.Value { return slog.StringValue(r.String()) }

// Status is the first field of M4: StatusOK, or a refusal that only a peer with
// a good signature gets.
type Status uint8

// The statuses of M4.
const (
	StatusOK         Status = 0
	StatusNotAllowed Status = 1 // the responder's policy forbids the pair
	StatusRekeyGone  Status = 2 // the rekey secret promised in M2 is gone; handled inside
	StatusBusy       Status = 3 // too many exchanges lately; try again later
)

// String says what the status means.
func (s Status) String() string {
	switch s {
	case StatusOK:
		return "ok"
	case StatusNotAllowed:
		return "its policy does not allow this pair"
	case StatusRekeyGone:
		return "it no longer has the old pair"
	case StatusBusy:
		return "it is busy"
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// Reason says how an exchange of our own failed.
type Reason uint8

// The reasons of a Failure.
const (
	ReasonLocal      Reason = iota + 1 // it could not begin; Detail says why
	ReasonNoAnswer                     // nobody answered M1
	ReasonIncomplete                   // M2 came, a good M4 did not; Detail says what came instead, if anything
	ReasonRefused                      // the peer refused, signed; Status says why
	ReasonNotAllowed                   // our own policy forbids the pair; Detail is what Authorize said
)

// Failure is the end of an exchange of our own, for a person to read.
type Failure struct {
	PID    id.ID
	Epoch  uint32
	Reason Reason
	Status Status // for ReasonRefused
	Tries  int    // transmissions of the message that stayed unanswered
	Paths  []Path // where they went
	Detail error  // may be nil
}

// Error is one sentence.
func (f Failure) Error() string {
	var s string
	switch f.Reason {
	case ReasonNoAnswer:
		s = fmt.Sprintf("keyex: no answer from %s after %d tries to %d endpoints %v", f.PID.Short(), f.Tries, len(f.Paths), f.Paths)
	case ReasonIncomplete:
		s = fmt.Sprintf("keyex: %s answered, but did not complete the exchange after %d tries at %v", f.PID.Short(), f.Tries, f.Paths)
	case ReasonRefused:
		s = fmt.Sprintf("keyex: %s refused: %v", f.PID.Short(), f.Status)
	case ReasonNotAllowed:
		s = fmt.Sprintf("keyex: our policy does not allow the pair with %s", f.PID.Short())
	default:
		s = fmt.Sprintf("keyex: cannot start with %s", f.PID.Short())
	}
	if f.Detail != nil {
		s += ": " + f.Detail.Error()
	}
	return s
}

// Unwrap returns Detail.
func (f Failure) Unwrap() error { return f.Detail }
