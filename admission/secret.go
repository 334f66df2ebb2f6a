package admission

import (
	"fmt"
	"io"
	"log/slog"
	"time"
)

const redacted = "[redacted]"

// Key is 32 secret bytes: a session key, or a service's ticket or fake-verifier
// key. It prints as "[redacted]" with every verb.
type Key [32]byte

var (
	_ fmt.Formatter  = Key{}
	_ slog.LogValuer = Key{}
)

// Format implements fmt.Formatter, so that not even %x or %#v shows a key.
func (Key) Format(s fmt.State, _ rune) { io.WriteString(s, redacted) }

// LogValue implements slog.LogValuer.
func (Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// Wipe overwrites the key.
func (k *Key) Wipe() { clear(k[:]) }

// Session is what a peer keeps, sealed, to come back without its enrolment
// secret: the ticket works once, at any super peer of the service.
type Session struct {
	Key     Key
	Ticket  []byte
	Expires time.Time
}

var (
	_ fmt.Formatter  = Session{}
	_ slog.LogValuer = Session{}
)

// Expired says whether the ticket is of no more use at now.
func (s Session) Expired(now time.Time) bool { return !now.Before(s.Expires) }

// Format implements fmt.Formatter: the expiry only.
func (s Session) Format(f fmt.State, _ rune) {
	io.WriteString(f, "session until "+s.Expires.UTC().Format(time.RFC3339))
}

// LogValue implements slog.LogValuer.
func (s Session) LogValue() slog.Value { return slog.TimeValue(s.Expires) }

// Wipe overwrites the key and drops the ticket.
func (s *Session) Wipe() {
	s.Key.Wipe()
	clear(s.Ticket)
	s.Ticket = nil
}
