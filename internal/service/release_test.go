package service

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// releaseKeys sign in the tests; only the first two are named by the policy.
var releaseKeys = []ed25519.PrivateKey{testKey(21), testKey(22), testKey(23)}

func testUpdates() Updates {
	return Updates{Channel: "stable", Keys: []string{ReleaseKeyText(public(releaseKeys[0])), ReleaseKeyText(public(releaseKeys[1]))}}
}

func testRelease(s id.ID) Release {
	hash := bytes.Repeat([]byte{7}, 32)
	return Release{
		Format: docVersion, Service: s, Seq: 5, Issued: t0.Unix(), Expires: t0.AddDate(0, 1, 0).Unix(), Channel: "stable", Version: "1.2.0", Minimum: "1.0.0",
		Notes: "https://example.org/1.2.0", Artefacts: []Artefact{{OS: "linux", Arch: "amd64", Size: 1 << 24, SHA256: hash}, {OS: "linux", Arch: "arm64", Size: 1 << 23, SHA256: hash}},
	}
}

func signedRelease(t testing.TB, r Release, keys ...ed25519.PrivateKey) Signed {
	t.Helper()
	s, err := NewRelease(r)
	for _, k := range keys {
		if err == nil {
			s, err = s.SignRelease(k)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// following returns the chain with a policy that names release keys.
func (f fixture) following(t testing.TB, seq uint64, u Updates) *Trust {
	t.Helper()
	p, err := NewPolicy(Policy{Sequence: seq, Issued: t0, Expires: t0.AddDate(1, 0, 0), Updates: u}, f.id, []ed25519.PrivateKey{f.owner})
	if err != nil {
		t.Fatal(err)
	}
	tr, err := f.trust(t).WithPolicy(p, t0)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// TestReleaseIsOfTodayAndHasADate: the number is the time of signing, and people are
// shown the dates.
func TestReleaseIsOfTodayAndHasADate(t *testing.T) {
	f := newFixture(t)
	tr := f.following(t, 1, testUpdates())
	at := func(issued int64) error {
		r := testRelease(f.id)
		r.Issued, r.Expires = issued, issued+86400
		s, err := NewRelease(r)
		if err == nil {
			s, err = s.SignRelease(releaseKeys[0])
		}
		if err == nil {
			_, err = tr.NewerRelease(s, nil, t0)
		}
		return err
	}
	if err := at(t0.Add(releaseSlack).Unix()); err != nil {
		t.Error(err)
	}
	if err := at(t0.Add(releaseSlack).Unix() + 1); err == nil || !strings.Contains(err.Error(), "is yet to come; set the signer's clock") {
		t.Errorf("signed tomorrow: %v", err)
	}
	if err := at(lastSecond); err == nil || !strings.Contains(err.Error(), "is valid from") {
		t.Errorf("ends after the year 9999: %v", err)
	}
}

// TestCosignedCopiesAreTheSameBytes in the overlays, where one number has one value.
func TestCosignedCopiesAreTheSameBytes(t *testing.T) {
	f := newFixture(t)
	tr := f.following(t, 1, testUpdates())
	one := signedRelease(t, testRelease(f.id), releaseKeys[0])
	both := signedRelease(t, testRelease(f.id), releaseKeys[2], releaseKeys[1], releaseKeys[0])
	if n, m := tr.ReleaseSigners(one), tr.ReleaseSigners(both); n != 1 || m != 2 {
		t.Errorf("%d and %d of the policy's keys have signed", n, m)
	}
	if got := tr.EnoughSignatures(both); !bytes.Equal(got.Encode(), tr.EnoughSignatures(one).Encode()) || len(got.Sigs) != 1 {
		t.Errorf("%d signatures are handed on, and others for the other copy", len(got.Sigs))
	}
	u := testUpdates()
	u.Threshold = 2
	if got := f.following(t, 1, u).EnoughSignatures(both); len(got.Sigs) != 2 {
		t.Errorf("%d signatures are handed on where two are wanted", len(got.Sigs))
	}
}

// TestWeakReleaseKeysAreRefused: everybody can sign for them.
func TestWeakReleaseKeysAreRefused(t *testing.T) {
	for _, text := range weakPoints {
		for _, sign := range []byte{0, 0x80} {
			k, err := hex.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			k[31] |= sign
			if _, err := ParseReleaseKey(ReleaseKeyText(k)); err == nil || !strings.Contains(err.Error(), "everybody can sign") {
				t.Errorf("%x: %v", k, err)
			}
		}
	}
	good := ReleaseKeyText(public(releaseKeys[0]))
	if _, err := ParseReleaseKey(good); err != nil {
		t.Error(err)
	}
	if _, err := ParseReleaseKey(good[:20] + "\n" + good[20:]); err == nil {
		t.Error("a key with a line break in it is taken")
	}
}

func TestReleaseIsRefusedWithASentence(t *testing.T) {
	f := newFixture(t)
	tr := f.following(t, 2, testUpdates())
	known, err := tr.NewerRelease(signedRelease(t, testRelease(f.id), releaseKeys[0]), nil, t0)
	if err != nil || known.Version != "1.2.0" {
		t.Fatalf("%+v, %v", known, err)
	}
	by := func(change func(*Release), keys ...ed25519.PrivateKey) Signed {
		r := testRelease(f.id)
		r.Seq = 6
		if change != nil {
			change(&r)
		}
		return signedRelease(t, r, keys...)
	}
	good := by(nil, releaseKeys[0])
	forged := good
	forged.Body = bytes.Clone(good.Body)
	forged.Body[len(forged.Body)-1] ^= 1
	renamed := by(nil, releaseKeys[2])
	renamed.Sigs[0].Index = public(releaseKeys[0])[0]
	crowd := good
	crowd.Sigs = make([]Signature, maxSignatures+1)
	long := signRaw(typeRelease, append(bytes.Clone(good.Body), make([]byte, MaxRelease)...), releaseKeys[0])
	for name, c := range map[string]struct {
		s    Signed
		want string
	}{
		"unsigned":                        {by(nil), "carries 0 valid release key signatures, 1 are needed"},
		"forged":                          {forged, "carries 0 valid release key signatures"},
		"a key that is not named":         {by(nil, releaseKeys[2]), "carries 0 valid release key signatures"},
		"such a key under another's name": {renamed, "carries 0 valid release key signatures"},
		"the owner's key":                 {by(nil, f.owner), "carries 0 valid release key signatures"},
		"a super peer's key":              {by(nil, f.admit), "carries 0 valid release key signatures"},
		"another type":                    {signRaw(typePolicy, good.Body, releaseKeys[0]), `is of type "policy", want "release"`},
		"signed as another type":          {Signed{Type: typeRelease, Body: good.Body, Sigs: signRaw(typePolicy, good.Body, releaseKeys[0]).Sigs}, "carries 0 valid"},
		"too many signatures":             {crowd, "has 17 signatures, at most 16"},
		"too long":                        {long, "the limit is 8192"},
		"expired":                         {by(func(r *Release) { r.Issued, r.Expires = t0.Unix()-2, t0.Unix() }, releaseKeys[0]), "expired on 2026-11-01 12:00 UTC"},
		"rolled back":                     {by(func(r *Release) { r.Seq = 4 }, releaseKeys[0]), "has sequence number 4, 5 is known"},
		"known":                           {by(func(r *Release) { r.Seq = 5 }, releaseKeys[0]), "of sequence number 5 is known"},
		"another of the same number":      {by(func(r *Release) { r.Seq, r.Version = 5, "1.3.0" }, releaseKeys[0]), "another release manifest of sequence number 5"},
		"another channel":                 {by(func(r *Release) { r.Channel = "beta" }, releaseKeys[0]), "is of channel beta, and the policy follows stable"},
		"another service":                 {by(func(r *Release) { r.Service = id.ID{9} }, releaseKeys[0]), "is of service 09"},
	} {
		_, err := tr.NewerRelease(c.s, known, t0)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
		if rolled := errors.Is(err, ErrRollback); rolled != (name == "rolled back") {
			t.Errorf("%s: %v", name, err)
		}
		if stale := errors.Is(err, ErrStale); stale != (name == "known") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r, err := tr.NewerRelease(good, known, t0); err != nil || r.Seq != 6 {
		t.Errorf("the next one: %v", err)
	}
	if _, err := f.trust(t).OpenRelease(good); err == nil || !strings.Contains(err.Error(), "names no release keys") {
		t.Errorf("without release keys in the policy: %v", err)
	}
	for i := range good.Body {
		if _, err := tr.OpenRelease(signRaw(typeRelease, good.Body[:i], releaseKeys[0])); err == nil {
			t.Fatalf("%d bytes of %d open", i, len(good.Body))
		}
	}
	if _, err := tr.OpenRelease(signRaw(typeRelease, append(bytes.Clone(good.Body), 0), releaseKeys[0])); err == nil {
		t.Error("a byte too many")
	}
}

// signRaw signs whatever the body is.
func signRaw(typ string, body []byte, k ed25519.PrivateKey) Signed {
	return Signed{Type: typ, Body: body, Sigs: []Signature{{Index: public(k)[0], Sig: wire.Sign(k, "icvpn/1 "+typ, body)}}}
}

func TestThresholdCountsKeysOnce(t *testing.T) {
	f := newFixture(t)
	u := testUpdates()
	u.Threshold = 2
	tr := f.following(t, 2, u)
	one := signedRelease(t, testRelease(f.id), releaseKeys[0])
	if _, err := one.SignRelease(releaseKeys[0]); err == nil {
		t.Error("signed twice with one key")
	}
	twice := one
	twice.Sigs = append(twice.Sigs, twice.Sigs[0])
	for name, s := range map[string]Signed{"one": one, "one, twice": twice, "one and a stranger": signedRelease(t, testRelease(f.id), releaseKeys[0], releaseKeys[2])} {
		if _, err := tr.OpenRelease(s); err == nil || !strings.Contains(err.Error(), "carries 1 valid release key signatures, 2 are needed") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, keys := range [][]ed25519.PrivateKey{{releaseKeys[0], releaseKeys[1]}, {releaseKeys[2], releaseKeys[1], releaseKeys[0]}} {
		if _, err := tr.OpenRelease(signedRelease(t, testRelease(f.id), keys...)); err != nil {
			t.Error(err)
		}
	}
}

// TestKeyThatThePolicyDropsSignsNothing: neither what it signed before, nor a
// number so high that nothing could follow.
func TestKeyThatThePolicyDropsSignsNothing(t *testing.T) {
	f := newFixture(t)
	u := testUpdates()
	u.Keys = u.Keys[1:]
	before, after := f.following(t, 2, testUpdates()), f.following(t, 3, u)
	r := testRelease(f.id)
	r.Seq = 1<<63 - 1
	last := signedRelease(t, r, releaseKeys[0])
	if _, err := before.OpenRelease(last); err != nil {
		t.Fatal(err)
	}
	if _, err := after.OpenRelease(last); err == nil {
		t.Error("it still counts")
	}
	if _, err := after.OpenRelease(signedRelease(t, testRelease(f.id), releaseKeys[1])); err != nil {
		t.Errorf("the other key's: %v", err)
	}
}

func TestKeyOfTheServiceIsNoReleaseKey(t *testing.T) {
	f := newFixture(t)
	for name, k := range map[string]ed25519.PrivateKey{"owner": f.owner, "super peer": f.store} {
		u := testUpdates()
		u.Keys = append(u.Keys, ReleaseKeyText(public(k)))
		if _, err := f.following(t, 2, u).OpenRelease(signedRelease(t, testRelease(f.id), releaseKeys[0])); err == nil || !strings.Contains(err.Error(), "which is an owner's or a super peer's, too") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReleaseThatMakesNoSenseIsNotSigned(t *testing.T) {
	many := make([]Artefact, MaxArtefacts+1)
	for want, change := range map[string]func(*Release){
		"has sequence number 0":                                      func(r *Release) { r.Seq = 0 },
		"has sequence number 9223372036854775808":                    func(r *Release) { r.Seq = 1 << 63 },
		`of channel "Stable"`:                                        func(r *Release) { r.Channel = "Stable" },
		`of version "1.2" with minimum`:                              func(r *Release) { r.Version = "1.2" },
		`minimum "v1.0.0"`:                                           func(r *Release) { r.Minimum = "v1.0.0" },
		"which is below its own minimum 1.10.0":                      func(r *Release) { r.Minimum = "1.10.0" },
		"want an end after the beginning and at most 366 days later": func(r *Release) { r.Expires = r.Issued },
		"until 2027-11-03":                                           func(r *Release) { r.Expires = r.Issued + 367*86400 },
		`has notes at "http://example.org/"`:                         func(r *Release) { r.Notes = "http://example.org/" },
		`has notes at "https://a\x1b[2J"`:                            func(r *Release) { r.Notes = "https://a\x1b[2J" },
		"has 0 artefacts":                                            func(r *Release) { r.Artefacts = nil },
		"has 65 artefacts":                                           func(r *Release) { r.Artefacts = many },
		`artefact 1 is for "../linux"`:                               func(r *Release) { r.Artefacts[0].OS = "../linux" },
		"artefact 2, for linux on arm64, has 0 byt":                  func(r *Release) { r.Artefacts[1].Size = 0 },
		"has 16777216 bytes and a hash of 31":                        func(r *Release) { r.Artefacts[0].SHA256 = make([]byte, 31) },
		"two artefacts for linux on amd64":                           func(r *Release) { r.Artefacts[1].Arch = "amd64" },
	} {
		r := testRelease(id.ID{1})
		change(&r)
		if _, err := NewRelease(r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	full := testRelease(id.ID{1})
	full.Notes = "https://" + strings.Repeat("n", maxNotes-8)
	full.Channel = strings.Repeat("c", maxName)
	full.Version, full.Minimum = "4294967295.4294967295.4294967295", "4294967295.4294967295.4294967295"
	full.Seq = 1<<63 - 1
	full.Artefacts = nil
	for i := range MaxArtefacts {
		full.Artefacts = append(full.Artefacts, Artefact{OS: strings.Repeat(string(rune('a'+i%26)), maxPlatform), Arch: strings.Repeat(string(rune('a'+i/26)), maxPlatform), Size: 1<<64 - 1, SHA256: make([]byte, 32)})
	}
	s := signedRelease(t, full)
	for n := range byte(maxSignatures) {
		var err error
		if s, err = s.SignRelease(testKey(n + 1)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ParseReleaseFile(s.EncodeRelease()); err != nil {
		t.Errorf("the largest one: %v", err)
	}
	if _, err := s.SignRelease(testKey(99)); err == nil || !strings.Contains(err.Error(), "has 16 signatures") {
		t.Errorf("one more signature: %v", err)
	}
}

func TestUpdatesOfAPolicyAreRefusedWithASentence(t *testing.T) {
	k := ReleaseKeyText(public(releaseKeys[0]))
	for text, want := range map[string]string{
		"{channel: stable}":                                                   "names 0 release keys in updates, want 1 to 8",
		"{keys: [" + k + "]}":                                                 `has updates of channel ""`,
		"{channel: Stable, keys: [" + k + "]}":                                `has updates of channel "Stable"`,
		"{channel: stable, keys: [abc]}":                                      "has release key 1 in updates, which is not 43 characters of base64url",
		"{channel: stable, keys: [" + k + ", " + k + "]}":                     "twice in updates",
		"{channel: stable, keys: [" + k + "], threshold: 2}":                  "wants 2 of 1 release keys in updates",
		"{channel: stable, keys: [" + k + "], threshold: -1}":                 "wants -1 of 1 release keys in updates",
		"{threshold: 1}":                                                      `has updates of channel ""`,
		"{channel: stable, keys: [" + strings.Repeat(k+", ", 8) + k + "]}":    "names 9 release keys",
		"{channel: stable, keys: [" + k + "], treshold: 1}":                   "treshold",
		"{channel: stable, keys: [" + k + "]}":                                "",
		"{channel: stable, keys: [" + k + "], threshold: 1}":                  "",
		"{channel: nightly-2, keys: [\"" + k + "\"], threshold: 1} # comment": "",
	} {
		_, err := ParsePolicy([]byte("version: 1\nmesh: full\nsuites: [aes128cbc-sha256]\ngroups: [x25519]\nsa_lifetime: 1h\nupdates: " + text + "\n"))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	// Keys may begin with a hyphen, which means something in YAML.
	f := newFixture(t)
	u := Updates{Channel: "stable", Keys: []string{ReleaseKeyText(append([]byte{0xfb, 0xe0}, make([]byte, 30)...)), ReleaseKeyText(append([]byte{0xfb, 0xe1}, make([]byte, 30)...))}}
	if got := f.following(t, 2, u).Policy.Updates; got.Keys[0] != u.Keys[0] || got.Keys[0][0] != '-' {
		t.Errorf("%+v", got)
	}
}

func TestVersionsCompareByNumbers(t *testing.T) {
	in := []string{"0.0.0", "0.9.10", "0.10.9", "1.0.0", "1.0.1", "2.0.0"}
	for i, a := range in {
		for j, b := range in {
			va, okA := ParseVersion(a)
			vb, okB := ParseVersion(b)
			if !okA || !okB || (va.Compare(vb) < 0) != (i < j) {
				t.Errorf("%s and %s", a, b)
			}
		}
	}
	for _, s := range []string{"", "devel", "1", "1.2", "v1.2.3", "1.2.3-rc1", "01.2.3", "1.2.3.4", "1..3", "1.2.-3", "1.2.+3", "1.2.4294967296"} {
		if _, ok := ParseVersion(s); ok {
			t.Errorf("%q is a version", s)
		}
	}
}

// TestReleaseVector: the bytes are wire format.
func TestReleaseVector(t *testing.T) {
	s := signedRelease(t, testRelease(id.ID{1}), releaseKeys[0], releaseKeys[1])
	text := "# Release manifest of docs/protocol/release.md: service 01 00..., sequence number 5, signed on 2026-11-01 12:00 UTC\n" +
		"# for a month with the keys of seeds 15 15... and 16 16...; the file without its first line, \"icvpn release 1\".\n" + hex.EncodeToString(s.Encode()) + "\n"
	path := filepath.Join("testdata", "release.txt")
	if *updateVectors {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || string(want) != text {
		t.Errorf("got\n%s, %v", text, err)
	}
	again, err := ParseReleaseFile(s.EncodeRelease())
	if err != nil || !bytes.Equal(again.Encode(), s.Encode()) {
		t.Errorf("the file does not come back: %v", err)
	}
	for n := range s.EncodeRelease() {
		if _, err := ParseReleaseFile(s.EncodeRelease()[:n]); err == nil {
			t.Fatalf("%d bytes are a file", n)
		}
	}
}

func FuzzRelease(f *testing.F) {
	fx := newFixture(f)
	tr := fx.following(f, 2, testUpdates())
	good := signedRelease(f, testRelease(fx.id), releaseKeys[0])
	f.Add(good.Encode())
	f.Add(good.Body)
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseSignedRelease(b); err == nil {
			if r, err := tr.NewerRelease(s, nil, t0.Add(time.Hour)); err == nil && !bytes.Equal(wire.Marshal(r), good.Body) {
				t.Errorf("accepted foreign bytes %x", b)
			}
		}
		// The body, as if it were signed.
		if r, err := (Signed{Type: typeRelease, Body: b}).ReadRelease(); err == nil {
			if s, err := NewRelease(*r); err != nil || !bytes.Equal(s.Body, b) {
				t.Errorf("encodes otherwise: %v", err)
			}
		}
	})
}
