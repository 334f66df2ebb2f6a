package admission

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"icvpn/internal/wire"
)

// bodies are one valid message of every type.
func bodies() map[Type]body {
	b32, b64 := make([]byte, 32), make([]byte, 64)
	return map[Type]body{
		TypeDescriptorRequest: &descriptorRequest{Version: 1, Service: make([]byte, 20)},
		TypeDescriptor:        &descriptor{Root: b32, Descriptor: b64, Clock: 1},
		TypeStart:             &start{SecretID: "web-1"},
		TypeChallenge:         &challenge{Salt: make([]byte, 16), B: make([]byte, 256)},
		TypeProof:             &proof{A: make([]byte, 256), PID: make([]byte, 20), M1: b32},
		TypeAccept:            &accept{M2: b32, Info: b64},
		TypeProvision:         &provision{Request: b32, IDKey: b32, Sig: b64},
		TypeGrant:             &grant{Grant: b32, Ticket: b64, Expires: 1},
		TypeList:              &opaque{Bytes: b32},
		TypeListReply:         &opaque{Bytes: b64},
		TypeContinue:          &resume{Ticket: b64, IDKey: b32, MAC: b32, Sig: b64},
		TypeRefused:           &refused{Code: 1, Detail: "x", Other: "y"},
	}
}

// empty returns a zero message for type t.
func empty(t Type) body {
	return map[Type]body{
		TypeDescriptorRequest: new(descriptorRequest), TypeDescriptor: new(descriptor), TypeStart: new(start),
		TypeChallenge: new(challenge), TypeProof: new(proof), TypeAccept: new(accept), TypeProvision: new(provision),
		TypeGrant: new(grant), TypeList: new(opaque), TypeListReply: new(opaque), TypeContinue: new(resume),
		TypeRefused: new(refused),
	}[t]
}

func TestMessagesRefuseTruncationsAndTrailingBytes(t *testing.T) {
	for typ, m := range bodies() {
		f := encode(typ, m)
		if err := decode(f, empty(typ)); err != nil {
			t.Errorf("%v: %v", typ, err)
		}
		for i := range f.Body {
			if err := decode(Frame{typ, f.Body[:i]}, empty(typ)); !errors.Is(err, ErrMalformed) {
				t.Errorf("%v cut to %d bytes: %v", typ, i, err)
			}
		}
		if err := decode(Frame{typ, append(slices.Clone(f.Body), 0)}, empty(typ)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%v with a trailing byte: %v", typ, err)
		}
	}
}

func TestMessagesRefuseWrongFields(t *testing.T) {
	b32, b64 := make([]byte, 32), make([]byte, 64)
	for i, f := range []Frame{
		encode(TypeDescriptorRequest, &descriptorRequest{Version: 2, Service: make([]byte, 20)}),
		encode(TypeDescriptorRequest, &descriptorRequest{Version: 1, Service: make([]byte, 19)}),
		encode(TypeDescriptor, &descriptor{Root: make([]byte, maxRoot+1)}),
		encode(TypeDescriptor, &descriptor{Descriptor: make([]byte, maxDescriptor+1)}),
		encode(TypeDescriptor, &descriptor{Clock: maxUnixMs + 1}),
		encode(TypeStart, &start{SecretID: ""}),
		encode(TypeStart, &start{SecretID: string(make([]byte, 65))}),
		encode(TypeStart, &start{SecretID: "a b"}),
		encode(TypeChallenge, &challenge{Salt: make([]byte, 15)}),
		encode(TypeProof, &proof{PID: make([]byte, 21), M1: b32}),
		encode(TypeProof, &proof{PID: make([]byte, 20), M1: b64}),
		encode(TypeAccept, &accept{M2: b64}),
		encode(TypeProvision, &provision{IDKey: b64, Sig: b64}),
		encode(TypeProvision, &provision{IDKey: b32, Sig: b32}),
		encode(TypeGrant, &grant{Ticket: nil, Expires: 1}),
		encode(TypeGrant, &grant{Ticket: make([]byte, limitTicket+1)}),
		encode(TypeGrant, &grant{Ticket: b32, Expires: maxUnixMs + 1}),
		encode(TypeContinue, &resume{Ticket: make([]byte, limitTicket+1), IDKey: b32, MAC: b32, Sig: b64}),
		encode(TypeContinue, &resume{Ticket: b32, IDKey: b32, MAC: b64, Sig: b64}),
		encode(TypeContinue, &resume{Ticket: b32, IDKey: b32, MAC: b32, Sig: b32}),
		encode(TypeContinue, &resume{Ticket: b32, IDKey: nil, MAC: b32, Sig: b64}),
		encode(TypeRefused, &refused{Code: 0}),
		encode(TypeRefused, &refused{Code: 1, Detail: "\x1b[2J"}),
		encode(TypeRefused, &refused{Code: 1, Other: "a\nb"}),
		encode(TypeRefused, &refused{Code: 1, Detail: string(bytes.Repeat([]byte("x"), maxDetail+1))}),
		encode(TypeRefused, &refused{Code: 1, Other: string(bytes.Repeat([]byte("x"), maxOther+1))}),
		{TypeStart, wire.Marshal(make([]byte, limitEarly))},
	} {
		if err := decode(f, empty(f.Type)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d: %v accepted: %v", i, f.Type, err)
		}
	}
}
