package owner

import (
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/service"
)

func TestReleaseKeyIsNobodyElsesToRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "alice.key")
	public, err := NewReleaseKey(file)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	k, err := ReadReleaseKey(file)
	if err != nil || service.ReleaseKeyText(k.Public().(ed25519.PublicKey)) != public {
		t.Errorf("the key does not come back: %v", err)
	}
	if got, err := ReadPublicReleaseKey(file + ".pub"); err != nil || got != public {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := NewReleaseKey(file); err == nil {
		t.Error("a key is overwritten")
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadReleaseKey(file); err == nil || !strings.Contains(err.Error(), "is open to others") {
		t.Errorf("of mode 0640: %v", err)
	}
}

// TestPolicyNamesReleaseKeysThatAreNobodysOfTheService, and the rest of it stays as
// it was.
func TestPolicyNamesReleaseKeysThatAreNobodysOfTheService(t *testing.T) {
	s, err := Create(testOptions)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	out, err := Revoke(s.Secret, []id.ID{{7}}, DefaultEpochDelay, now)
	if err != nil {
		t.Fatal(err)
	}
	f, err := parseOwner(out.Secret)
	if err != nil {
		t.Fatal(err)
	}
	named := func(seed []byte) service.Updates {
		return service.Updates{Channel: "stable", Threshold: 1, Keys: []string{service.ReleaseKeyText(ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey))}}
	}
	for name, seed := range map[string][]byte{"owner": f.Owner, "super peer": f.Supers[0]} {
		if _, err := SetUpdates(out.Secret, named(seed), now); err == nil || !strings.Contains(err.Error(), "which is an owner's or a super peer's, too") {
			t.Errorf("%s: %v", name, err)
		}
	}
	n, err := SetUpdates(out.Secret, named(random(32)), now)
	if err != nil || n.Record.Number != 0 {
		t.Fatal(err)
	}
	p, err := service.ParsePolicy(n.Policy)
	if err != nil || p.Sequence != 3 || !p.Updates.Named() || len(p.Out.Peers) != 1 || len(p.Rules) == 0 {
		t.Errorf("%+v, %v", p, err)
	}
	if string(n.Policy) != string(n.Update.Policy.Body) || len(n.Update.Epochs.Body) == 0 {
		t.Error("the update file is not what was signed")
	}
	if n, err = SetUpdates(n.Secret, service.Updates{}, now); err != nil || strings.Contains(string(n.Policy), "updates") {
		t.Errorf("none: %v\n%s", err, n.Policy)
	}
}
