package esp

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
)

// ErrKeys is returned for keys that do not fit their suite.
var ErrKeys = errors.New("esp: bad keys")

const redacted = "esp.Keys(redacted)"

// Keys are the secrets of one SA, one direction. Suite.KeySizes gives the
// lengths. Formatting, logging and marshalling a Keys shows no byte of it.
type Keys struct {
	Enc  []byte // encryption
	Int  []byte // integrity
	IV   []byte // CBC: IV = AES-128(IV, sequence number)
	Salt []byte // AEAD: nonce = Salt ‖ explicit IV
}

// Wipe overwrites the keys with zeros. Every copy of the struct shares the bytes.
func (k *Keys) Wipe() {
	clear(k.Enc)
	clear(k.Int)
	clear(k.IV)
	clear(k.Salt)
}

// Format keeps every verb of fmt, %x and %d too, from printing the bytes.
func (k Keys) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// String returns a fixed text.
func (k Keys) String() string { return redacted }

// LogValue returns a fixed text.
func (k Keys) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns a fixed text: JSON shows keys as little as logs do.
func (k Keys) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// clone copies the bytes, so that the caller may wipe his.
func (k *Keys) clone() Keys {
	return Keys{
		Enc:  append([]byte(nil), k.Enc...),
		Int:  append([]byte(nil), k.Int...),
		IV:   append([]byte(nil), k.IV...),
		Salt: append([]byte(nil), k.Salt...),
	}
}

func (k *Keys) check(want KeySizes) error {
	for _, f := range []struct {
		name      string
		key       []byte
		wantBytes int
	}{
		{"enc", k.Enc, want.Enc},
		{"int", k.Int, want.Int},
		{"iv", k.IV, want.IV},
		{"salt", k.Salt, want.Salt},
	} {
		if len(f.key) != f.wantBytes {
			return fmt.Errorf("%w: %s has %d bytes, want %d", ErrKeys, f.name, len(f.key), f.wantBytes)
		}
	}
	// The IV is secret only because its key is not the one that makes the
	// ciphertext: with one key for both, IV and blocks are outputs of the same
	// permutation and an attacker may relate them.
	if want.IV > 0 && subtle.ConstantTimeCompare(k.IV, k.Enc[:want.IV]) == 1 {
		return fmt.Errorf("%w: iv repeats enc", ErrKeys)
	}
	return nil
}
