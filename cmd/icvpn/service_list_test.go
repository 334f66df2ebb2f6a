package main

import (
	"strings"
	"testing"

	"icvpn/internal/control"
)

func TestServiceIsChosenByNameOrID(t *testing.T) {
	all := []control.Service{{Name: "shop", ID: "aabb01"}, {Name: "shop", ID: "aabb02"}, {Name: "wiki", ID: "ccdd01"}, {Name: "ccdd", ID: "eeff01"}}
	for what, want := range map[string]string{"wiki": "ccdd01", "aabb02": "aabb02", "CCDD0": "ccdd01", "ccdd": "eeff01"} {
		if got, err := chooseService(all, what); err != nil || got.ID != want {
			t.Errorf("%s: %s, %v", what, got.ID, err)
		}
	}
	for what, want := range map[string]string{
		"shop": "2 services are called \"shop\"; give the ID of the one that you mean: aabb01, aabb02",
		"aabb": "give the ID",
		"blog": "no service \"blog\" is known here; icvpn service list lists those that are",
		"aab":  "no service",
	} {
		if _, err := chooseService(all, what); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
}
