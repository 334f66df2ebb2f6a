package process

import (
	"os"
	"path/filepath"
	"testing"

	"icvpn/internal/config"
	"icvpn/internal/state"
)

// serves opens the services of c, keeps what is fresh and returns the state
// directory of each by name.
func serves(t *testing.T, c config.Super) (map[string]string, error) {
	t.Helper()
	root, err := state.Open(c.StateDir, state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	s, err := openServices(root, c)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if err := s.keep(quiet); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, v := range s.all {
		out[nameOnly(v.handOver.Service)] = v.dir.Path()
	}
	return out, nil
}

// TestEachServiceKeepsItsStateDirectory: however the list of services changes,
// and whether or not the files are still there.
func TestEachServiceKeepsItsStateDirectory(t *testing.T) {
	shop, wiki := superConfig(t, newService(t, "shop", 1), 0), superConfig(t, newService(t, "wiki", 1), 0)
	// Both owners' files have the name super-1.handover; the operator renames one.
	renamed := filepath.Join(t.TempDir(), "wiki.handover")
	if err := os.Rename(wiki.HandOvers[0].File, renamed); err != nil {
		t.Fatal(err)
	}
	wiki.HandOvers[0].File = renamed
	both := shop
	both.HandOvers = []config.HandOver{shop.HandOvers[0], wiki.HandOvers[0]}

	first, err := serves(t, shop)
	if err != nil || first["shop"] != shop.StateDir {
		t.Fatalf("one service: %v, %v", first, err)
	}
	two, err := serves(t, both)
	if err != nil || two["shop"] != shop.StateDir || filepath.Dir(two["wiki"]) != filepath.Join(shop.StateDir, dirServices) {
		t.Fatalf("two services: %v, %v", two, err)
	}
	turned := both
	turned.HandOvers = []config.HandOver{wiki.HandOvers[0], shop.HandOvers[0]}
	alone := shop
	alone.HandOvers = wiki.HandOvers
	for what, c := range map[string]config.Super{"other order": turned, "the second alone": alone} {
		got, err := serves(t, c)
		if err != nil || got["wiki"] != two["wiki"] || len(got) > 1 && got["shop"] != two["shop"] {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	for _, h := range both.HandOvers {
		if err := os.Remove(h.File); err != nil {
			t.Fatal(err)
		}
	}
	moved := alone
	moved.HandOvers = []config.HandOver{{File: "/elsewhere/wiki.handover"}}
	for what, c := range map[string]config.Super{"no files": both, "no files, other order": turned, "no files, one": alone, "moved": moved} {
		got, err := serves(t, c)
		if err != nil || got["wiki"] != two["wiki"] || len(got) > 1 && got["shop"] != two["shop"] {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	third := both
	third.HandOvers = append(third.HandOvers[:2:2], config.HandOver{File: filepath.Join(t.TempDir(), "blog.handover")})
	_, err = serves(t, third)
	wantError(t, err, "blog.handover", "does not exist", "service owner")
}

// TestSecondServiceNeedsToBeNamed: a hand-over in the place of another is a
// mistake more often than a wish.
func TestSecondServiceNeedsToBeNamed(t *testing.T) {
	shop, wiki := superConfig(t, newService(t, "shop", 1), 0), superConfig(t, newService(t, "wiki", 1), 0)
	if _, err := serves(t, shop); err != nil {
		t.Fatal(err)
	}
	wiki.StateDir = shop.StateDir
	_, err := serves(t, wiki)
	wantError(t, err, "belongs to service shop (", "to serve both, name both in handover")
}
