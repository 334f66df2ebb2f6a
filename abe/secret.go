package abe

import (
	"fmt"
	"io"
	"log/slog"
)

const redacted = "abe: redacted"

// Secret is a seed or another 32-byte secret. No verb of fmt and no slog
// handler prints it.
type Secret [SecretSize]byte

// Format writes a redaction for every verb.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue is a redaction.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText is a redaction, for encoders of text and JSON.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Wipe erases s.
func (s *Secret) Wipe() { clear(s[:]) }
