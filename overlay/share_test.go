package overlay

import (
	"crypto/ed25519"
	"testing"
	"time"

	"icvpn/internal/id"
)

// TestStoreFollowsItsBounds: more room is used at once, less takes nothing away.
func TestStoreFollowsItsBounds(t *testing.T) {
	m, err := NewMachine(Config{Self: id.ID{1}, StoreItems: 8, Class: func(ed25519.PublicKey) Class { return ClassMember }})
	if err != nil {
		t.Fatal(err)
	}
	put := func() (code int64) {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		it := SignItem(key, nil, 1, []byte("x"))
		return m.store.putItem(day, it, account{class: ClassMember, key: [32]byte(it.Key)})
	}
	for i, step := range []struct {
		items, more int
	}{{8, 2}, {80, 18}, {16, 0}} {
		m.SetStore(step.items, 1<<20)
		for range step.more {
			if code := put(); code != 0 {
				t.Fatalf("step %d: code %d with room left", i, code)
			}
		}
		if code := put(); code != codeFull {
			t.Errorf("step %d: code %d, want that it is full", i, code)
		}
	}
	if n, _ := m.store.size(); n != 20 {
		t.Errorf("%d items after the room became smaller, want 20", n)
	}
	m.store.sweep(day.Add(3 * time.Hour))
	if code := put(); code != 0 {
		t.Errorf("code %d after all had expired", code)
	}
}
