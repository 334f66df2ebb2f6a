package service

import "testing"

func TestPolicyBoundsHelpers(t *testing.T) {
	for _, c := range []struct {
		h    Helpers
		good bool
	}{
		{Helpers{}, true},
		{Helpers{CloudLabel: "zone", Min: 1, Max: 16}, true},
		{Helpers{Min: 3}, true},
		{Helpers{Off: true}, true},
		{Helpers{Min: -1}, false},
		{Helpers{Max: 17}, false},
		{Helpers{Min: 17}, false},
		{Helpers{Min: 3, Max: 2}, false},
	} {
		if err := c.h.validate(); (err == nil) != c.good {
			t.Errorf("%+v: %v", c.h, err)
		}
	}
}
