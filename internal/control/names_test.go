package control

import (
	"slices"
	"testing"
)

func TestNamesWarnOfThoseBorneTwice(t *testing.T) {
	n := Names{}
	n.Add("web-1", "2222222222222222")
	n.Add("app-1", "3333333333333333")
	n.Add("web-1", "1111111111111111")
	n.Add("app-1", "44")
	n.Add("db-1", "5555555555555555")
	n.Add("db-1", "5555555555555555") // listed by two super peers
	want := []string{
		"name app-1 is used by 2 machines (PIDs 33333333, 44): each is reachable by its address, and by name the one admitted last",
		"name web-1 is used by 2 machines (PIDs 11111111, 22222222): each is reachable by its address, and by name the one admitted last",
	}
	if got := n.Warnings(); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if got := (Names{}).Warnings(); got != nil {
		t.Errorf("without names: %q", got)
	}
}
