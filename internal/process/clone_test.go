package process

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"icvpn/internal/id"
	"icvpn/internal/node"
	"icvpn/internal/state"
)

func TestCloneStaysAwayUntilToldOtherwise(t *testing.T) {
	dir, err := state.Open(filepath.Join(t.TempDir(), "state"), state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := checkClone(dir, false); err != nil {
		t.Fatalf("before: %v", err)
	}
	if err := markClone(dir, errors.New("no route")); errors.Is(err, node.ErrClone) || checkClone(dir, false) != nil {
		t.Errorf("another end: %v", err)
	}
	said := markClone(dir, &node.CloneError{PID: id.ID{1}, Said: "db-1 on vm-7, since yesterday"})
	for i, err := range []error{said, checkClone(dir, false), checkClone(dir, false)} {
		if !errors.Is(err, node.ErrClone) || !strings.Contains(err.Error(), "vm-7") || !strings.Contains(err.Error(), "--take-over") || !strings.Contains(err.Error(), dir.Path()) {
			t.Errorf("sentence %d: %v", i, err)
		}
	}
	if err := checkClone(dir, true); err != nil {
		t.Error(err)
	}
	if err := checkClone(dir, false); err != nil {
		t.Errorf("after a take-over: %v", err)
	}
}
