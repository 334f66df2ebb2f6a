package state

import (
	"bytes"
	"errors"
	"testing"
)

func TestRecordOpensAtItsPlaceOnly(t *testing.T) {
	d, err := Open(t.TempDir()+"/a", Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	s := d.Sealer("ledger")
	value := []byte("a member")
	b := s.Seal("members", []byte("pid"), value)
	if got, err := s.Open("members", []byte("pid"), b); err != nil || !bytes.Equal(got, value) {
		t.Fatalf("Open = %q, %v", got, err)
	}
	if bytes.Contains(b, value) || bytes.Equal(b, s.Seal("members", []byte("pid"), value)) {
		t.Error("sealed value shows its content, or that it is the same")
	}
	other, err := Open(t.TempDir()+"/b", Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for name, open := range map[string]func() ([]byte, error){
		"another key":    func() ([]byte, error) { return s.Open("members", []byte("pie"), b) },
		"another bucket": func() ([]byte, error) { return s.Open("memberspid", nil, b) },
		"another store":  func() ([]byte, error) { return d.Sealer("x").Open("members", []byte("pid"), b) },
		"another dir":    func() ([]byte, error) { return other.Sealer("ledger").Open("members", []byte("pid"), b) },
	} {
		if _, err := open(); !errors.Is(err, ErrSeal) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range b {
		if _, err := s.Open("members", []byte("pid"), b[:i]); !errors.Is(err, ErrSeal) {
			t.Errorf("truncated to %d bytes: %v", i, err)
		}
	}
}
