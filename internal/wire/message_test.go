package wire

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
)

// parts is a connection that brings some bytes at a time, and keeps where to.
type parts struct {
	b    []byte
	into [][]byte
}

func (p *parts) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), 1000)], p.b)
	p.b = p.b[n:]
	p.into = append(p.into, b[:n])
	return n, nil
}

// TestReadLeavesNoCopies in memory that it has outgrown, nor of what broke off.
func TestReadLeavesNoCopies(t *testing.T) {
	for _, size := range []int{0, 1, firstRoom - 1, firstRoom, firstRoom + 1, 50_000} {
		message := bytes.Repeat([]byte{7}, size)
		var b bytes.Buffer
		if err := WriteMessage(&b, message); err != nil {
			t.Fatal(err)
		}
		p := &parts{b: bytes.Clone(b.Bytes())}
		got, err := ReadMessage(p, 4<<20)
		if err != nil || !bytes.Equal(got, message) {
			t.Fatalf("%d bytes: %d are read, %v", size, len(got), err)
		}
		clear(got)
		cut := &parts{b: b.Bytes()[:b.Len()-size/3]}
		if _, err := ReadMessage(cut, 4<<20); (err == nil) != (size/3 == 0) {
			t.Errorf("%d bytes, cut: %v", size, err)
		}
		for _, into := range slices.Concat(p.into[1:], cut.into[1:]) {
			if size > 1 && bytes.Contains(into, []byte{7, 7}) {
				t.Fatalf("%d bytes: some are left", size)
			}
		}
	}
	if got, err := ReadMessage(io.MultiReader(bytes.NewReader([]byte{0, 0x20, 0, 0}), bytes.NewReader(make([]byte, 100))), 4<<20); err == nil || got != nil {
		t.Error("2 MiB of which 100 bytes come are read")
	}
}

func TestMessageIsNoLongerThanTheLimit(t *testing.T) {
	var b bytes.Buffer
	if err := WriteMessage(&b, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadMessage(bytes.NewReader(b.Bytes()), 99); !errors.Is(err, ErrLength) {
		t.Errorf("100 bytes with a limit of 99: %v", err)
	}
	if got, err := ReadMessage(&b, 100); err != nil || len(got) != 100 {
		t.Errorf("100 bytes with a limit of 100: %d, %v", len(got), err)
	}
}

func FuzzReadMessage(f *testing.F) {
	f.Add([]byte{0, 0, 0, 2, 1, 2})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ReadMessage(bytes.NewReader(b), 1<<16)
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := WriteMessage(&again, got); err != nil || !bytes.HasPrefix(b, again.Bytes()) {
			t.Errorf("%x was read as %x, %v", b, got, err)
		}
	})
}
