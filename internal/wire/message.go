package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A message on a stream:
//
//	 0                   4
//	+-------------------+--------------------------+
//	| n, u32 big endian | deterministic CBOR, n B  |
//	+-------------------+--------------------------+

// ErrLength is returned for a message that says that it is longer than may be.
var ErrLength = errors.New("wire: the message is too long")

// firstRoom is what ReadMessage begins with.
const firstRoom = 4 << 10

// WriteMessage writes one message. It makes no copy of b.
func WriteMessage(w io.Writer, b []byte) error {
	if _, err := w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b)))); err != nil {
		return err
	}
	_, err := w.Write(b)
	return err
}

// ReadMessage reads one message of at most limit bytes. It allocates as bytes come,
// not what a length claims, and leaves no copy of what may be secret behind.
func ReadMessage(r io.Reader, limit uint32) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are expected", ErrLength, n, limit)
	}
	b := make([]byte, min(n, firstRoom))
	for have := 0; ; {
		if _, err := io.ReadFull(r, b[have:]); err != nil {
			clear(b)
			return nil, io.ErrUnexpectedEOF
		}
		if have = len(b); have == int(n) {
			return b, nil
		}
		grown := make([]byte, min(int(n), 2*have))
		copy(grown, b)
		clear(b)
		b = grown
	}
}
