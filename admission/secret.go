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

// What holds secrets in unexported fields needs a Format of its own, because
// fmt does not call methods of fields it cannot reach.
var (
	_ fmt.Formatter = ClientConfig{}
	_ fmt.Formatter = Binding{}
	_ fmt.Formatter = (*Client)(nil)
	_ fmt.Formatter = (*Server)(nil)
)

// Format implements fmt.Formatter: the names only.
func (c ClientConfig) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "admission to service %v with secret %q", c.ServiceID, c.SecretID)
}

// Format implements fmt.Formatter: the server key only.
func (b Binding) Format(f fmt.State, _ rune) {
	io.WriteString(f, "TLS session with "+Fingerprint(b.ServerKey))
}

// Format implements fmt.Formatter: the state only.
func (c *Client) Format(f fmt.State, _ rune) {
	io.WriteString(f, "admission client: "+c.state.String())
}

// Format implements fmt.Formatter: the state only.
func (s *Server) Format(f fmt.State, _ rune) {
	io.WriteString(f, "admission server: "+s.state.String())
}
