package admission

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Type is the kind of a frame.
type Type uint8

// The frames, in the order of a run. Odd steps come from the client.
const (
	TypeDescriptorRequest Type = 1
	TypeDescriptor        Type = 2
	TypeStart             Type = 3
	TypeChallenge         Type = 4
	TypeProof             Type = 5
	TypeAccept            Type = 6
	TypeProvision         Type = 7
	TypeGrant             Type = 8
	TypeList              Type = 9
	TypeListReply         Type = 10
	TypeContinue          Type = 11
	TypeRefused           Type = 12
)

var typeNames = [...]string{
	TypeDescriptorRequest: "DescriptorRequest", TypeDescriptor: "Descriptor",
	TypeStart: "Start", TypeChallenge: "Challenge", TypeProof: "Proof", TypeAccept: "Accept",
	TypeProvision: "Provision", TypeGrant: "Grant", TypeList: "List", TypeListReply: "ListReply",
	TypeContinue: "Continue", TypeRefused: "Refused",
}

// String returns the name used in docs/protocol/admission.md.
func (t Type) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	return fmt.Sprintf("Type(%d)", uint8(t))
}

// limit returns the largest body of a frame of type t; 0 for unknown types.
func (t Type) limit() int {
	switch t {
	case TypeDescriptorRequest, TypeStart, TypeProof:
		return limitEarly
	case TypeContinue:
		return limitContinue
	case TypeDescriptor:
		return limitDescriptor
	case TypeChallenge:
		return limitChallenge
	case TypeAccept:
		return limitAccept
	case TypeProvision:
		return limitProvision
	case TypeGrant:
		return limitGrant
	case TypeList:
		return limitList
	case TypeListReply:
		return limitListReply
	case TypeRefused:
		return limitRefused
	}
	return 0
}

// Frame is one message on the TLS stream.
type Frame struct {
	Type Type
	Body []byte
}

// headerSize is u32 length and u8 type; the length counts type and body.
const headerSize = 5

// ErrFrameSize is returned for a frame that is empty or longer than the
// machine's Limit. The stream cannot be read on after it: close it.
var ErrFrameSize = errors.New("admission: frame length out of range")

// ReadFrame reads one frame whose body has at most limit bytes: a machine's
// Limit. It returns io.EOF before the first byte and io.ErrUnexpectedEOF
// inside a frame. Memory grows with what arrives, not with the length claimed.
func ReadFrame(r io.Reader, limit int) (Frame, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return Frame{}, err
	}
	n := binary.BigEndian.Uint32(header[:4])
	if n == 0 || uint64(n)-1 > uint64(max(limit, 0)) {
		return Frame{}, fmt.Errorf("%w: %d bytes, at most %d are expected here", ErrFrameSize, n, limit)
	}
	var body bytes.Buffer
	if _, err := io.CopyN(&body, r, int64(n)-1); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	return Frame{Type: Type(header[4]), Body: body.Bytes()}, nil
}

// WriteFrames writes fs in one Write, so that they leave as few TLS records as
// they fit in. It refuses a body that no reader would take.
func WriteFrames(w io.Writer, fs ...Frame) error {
	size := 0
	for _, f := range fs {
		if len(f.Body) > f.Type.limit() {
			return fmt.Errorf("%w: %v of %d bytes, the limit is %d", ErrFrameSize, f.Type, len(f.Body), f.Type.limit())
		}
		size += headerSize + len(f.Body)
	}
	b := make([]byte, 0, size)
	for _, f := range fs {
		b = binary.BigEndian.AppendUint32(b, uint32(len(f.Body))+1)
		b = append(b, byte(f.Type))
		b = append(b, f.Body...)
	}
	_, err := w.Write(b)
	return err
}

// WriteFrame writes one frame.
func WriteFrame(w io.Writer, f Frame) error { return WriteFrames(w, f) }
