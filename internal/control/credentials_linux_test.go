package control

import "testing"

func TestOnlyRootAndTheOwnerMayControl(t *testing.T) {
	for _, tt := range []struct {
		client, own uint32
		ok          bool
	}{
		{0, 0, true}, {0, 1000, true}, {1000, 1000, true}, {1000, 0, false}, {1001, 1000, false}, {65534, 0, false},
	} {
		if err := checkUser(tt.client, tt.own); (err == nil) != tt.ok {
			t.Errorf("user %d at a process of user %d: %v", tt.client, tt.own, err)
		}
	}
}
