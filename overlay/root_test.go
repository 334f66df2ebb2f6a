package overlay

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"

	"icvpn/internal/wire"
)

func TestRootRefuses(t *testing.T) {
	obj, err := NewObject(testKey, nil, 1, make([]byte, MaxObject))
	if err != nil {
		t.Fatal(err)
	}
	good := obj.Root.Value
	r, err := parseRoot(good, MaxObject)
	if err != nil || r.Size != MaxObject || len(good) > MaxValue {
		t.Fatalf("parseRoot: %+v, %v (%d bytes)", r, err, len(good))
	}
	for n := range good {
		if _, err := parseRoot(good[:n], MaxObject); !errors.Is(err, ErrObject) {
			t.Errorf("truncation to %d bytes: %v", n, err)
		}
	}
	if _, err := parseRoot(append(bytes.Clone(good), 0), MaxObject); !errors.Is(err, ErrObject) {
		t.Errorf("trailing byte: %v", err)
	}
	name, sum := make([]byte, sha256.Size), make([]byte, sha256.Size)
	for what, bad := range map[string]root{
		"version 2":           {Ver: 2, Size: 1, Sum: sum, Names: name},
		"no bytes":            {Ver: 1, Sum: sum},
		"claims 4 GiB":        {Ver: 1, Size: 1<<32 - 1, Sum: sum, Names: name},
		"a byte beyond limit": {Ver: 1, Size: MaxObject + 1, Sum: sum, Names: bytes.Repeat(name, 7)},
		"short sum":           {Ver: 1, Size: 1, Sum: sum[1:], Names: name},
		"no name":             {Ver: 1, Size: 1, Sum: sum},
		"half a name":         {Ver: 1, Size: 1, Sum: sum, Names: name[1:]},
		"a name too many":     {Ver: 1, Size: 600, Sum: sum, Names: bytes.Repeat(name, 2)},
		"a name too few":      {Ver: 1, Size: 601, Sum: sum, Names: name},
		"too few indexes":     {Ver: 1, Size: MaxObject, Sum: sum, Names: bytes.Repeat(name, 6)},
	} {
		if _, err := parseRoot(wire.Marshal(bad), MaxObject); !errors.Is(err, ErrObject) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// The largest root: docs/protocol/overlay.md.
func TestLargestRootFits(t *testing.T) {
	obj, err := NewObject(testKey, nil, 1, make([]byte, fanOut*MaxValue))
	if err != nil || len(obj.Root.Value) != 554 || !obj.Root.Verify() {
		t.Errorf("%d bytes, %v", len(obj.Root.Value), err)
	}
}

func FuzzRoot(f *testing.F) {
	for _, n := range []int{1, 601, MaxObject, MaxLargeObject} {
		obj, err := NewLargeObject(testKey, nil, 1, make([]byte, n))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(obj.Root.Value)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRoot(b, MaxLargeObject)
		if err != nil {
			return
		}
		if r.Size > MaxLargeObject || r.leaves() > 1748 || len(r.Names) != sha256.Size*r.width() {
			t.Errorf("accepted %+v", r)
		}
		if !bytes.Equal(wire.Marshal(r), b) {
			t.Errorf("accepted a second encoding %x", b)
		}
	})
}
