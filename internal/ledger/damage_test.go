package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"icvpn/internal/id"
	"icvpn/internal/state"
	"icvpn/internal/wire"
)

// written makes a state directory with a ledger of some members and returns
// the ledger's file.
func written(t *testing.T) (path, file string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "state")
	dir := openDir(t, path)
	l := mustOpen(t, In(dir), "10.0.0.0/24", start)
	for n := range 40 {
		mustAdmit(t, l, n, "web", start)
	}
	if err := errors.Join(l.Close(), dir.Close()); err != nil {
		t.Fatal(err)
	}
	return path, filepath.Join(path, File)
}

// reopen opens the ledger again and closes everything.
func reopen(t *testing.T, path string, cfg Config) (members int, err error) {
	t.Helper()
	dir, err := state.Open(path, state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	l, err := Open(In(dir), cfg, start)
	if err != nil {
		return 0, err
	}
	return l.Len(), l.Close()
}

func wantSentence(t *testing.T, what string, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: opened", what)
		return
	}
	for _, w := range append(words, File) {
		if !strings.Contains(err.Error(), w) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q lacks %q", what, err, w)
		}
	}
}

func TestOpenNamesWhatIsWrong(t *testing.T) {
	alter := func(f func(tx *bbolt.Tx) error) func(*testing.T, string) {
		return func(t *testing.T, file string) {
			db, err := bbolt.Open(file, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.Update(f), db.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	content := func(b []byte) func(*testing.T, string) {
		return func(t *testing.T, file string) {
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		damage func(*testing.T, string)
		words  []string
	}{
		"empty":     {content(nil), []string{"damaged", "icvpn super restore"}},
		"text":      {content([]byte("hello")), []string{"damaged", "icvpn super restore"}},
		"long text": {content(bytes.Repeat([]byte("hello"), 10_000)), []string{"damaged", "icvpn super restore"}},
		"newer": {alter(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte(bucketMeta)).Put([]byte(metaSchema), []byte{1, 2})
		}), []string{"schema 258", "use that version"}},
		"another key": {alter(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte(bucketMeta)).Put([]byte(metaKey), []byte("12345678"))
		}), []string{"another key", "seal_key_file"}},
		"moved record": {alter(func(tx *bbolt.Tx) error {
			b, a := tx.Bucket([]byte(bucketMembers)), pidOf(1)
			other := pidOf(2)
			return b.Put(a[:], bytes.Clone(b.Get(other[:])))
		}), []string{"damaged", "members"}},
		"no meta": {alter(func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte(bucketMeta)) }), []string{"damaged", "schema"}},
	} {
		path, file := written(t)
		c.damage(t, file)
		_, err := reopen(t, path, testConfig("10.0.0.0/24"))
		wantSentence(t, name, err, c.words...)
	}
	path, _ := written(t)
	cfg := testConfig("10.0.0.0/24")
	cfg.SuperPeer = id.ID{9}
	_, err := reopen(t, path, cfg)
	wantSentence(t, "another super peer", err, "belongs to super peer")
	if n, err := reopen(t, path, testConfig("10.0.0.0/24")); n != 40 || err != nil {
		t.Errorf("undamaged: %d members, %v", n, err)
	}
}

// Whatever happens to the bytes of a file, it is either refused with a sentence
// or has every member.
func TestDamagedFileIsRefusedOrWhole(t *testing.T) {
	path, file := written(t)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	rounds := 60
	if testing.Short() {
		rounds = 15
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range rounds {
		b := bytes.Clone(whole)
		switch round % 3 {
		case 0:
			b = b[:rng.IntN(len(b))]
		case 1:
			for range 1 + rng.IntN(20) {
				b[rng.IntN(len(b))] = byte(rng.Uint32())
			}
		case 2: // a page that never came
			at := rng.IntN(len(b)/4096) * 4096
			clear(b[at : at+4096])
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		n, err := reopen(t, path, testConfig("10.0.0.0/24"))
		if err != nil {
			wantSentence(t, fmt.Sprint("round ", round), err)
		} else if n != 40 {
			t.Errorf("round %d: opened with %d members of 40", round, n)
		}
	}
}

func TestRolledBackFileIsFoundOut(t *testing.T) {
	path, file := written(t)
	older, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reopen(t, path, testConfig("10.0.0.0/24")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, older, 0o600); err != nil {
		t.Fatal(err)
	}
	l := mustOpen(t, In(openDir(t, path)), "10.0.0.0/24", start)
	if want := start.Add(life + grace); !l.Restored(start).Equal(want) {
		t.Errorf("new addresses from %v on, want %v", l.Restored(start), want)
	}
	var wait *RestoredError
	if _, err := admit(l, 100, "web", start); !errors.As(err, &wait) {
		t.Errorf("a new machine is admitted: %v", err)
	}
	if _, err := admit(l, 1, "web", start); err != nil {
		t.Errorf("a known machine is not: %v", err)
	}
}

func TestFormerMembersAreTakenOverOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	dir := openDir(t, path)
	end := start.Add(life).Unix()
	saved := wire.Marshal(formerSaved{
		Version: 1,
		Leases:  wire.Marshal([]formerLease{{PID: pidOf(1), Host: 7, Expires: end}, {PID: pidOf(2), Host: 3, Expires: end - 1000}}),
		Members: []formerMember{{
			Member:   formerEntry{Key: machine(1), Name: "m-1", VM: "vm", Labels: map[string]string{"role": "web"}, Address4: []byte{10, 0, 0, 7}, NotAfter: end},
			SecretID: "web", Slot: make([]byte, 16), Admitted: start.Unix() - 5,
		}},
		Used: map[string]uint32{"web": 3},
	})
	if err := dir.Put(legacy, saved); err != nil {
		t.Fatal(err)
	}
	l := mustOpen(t, In(dir), "10.0.0.0/24", start)
	check := func(l *Ledger) {
		t.Helper()
		e := l.Member(pidOf(1))
		if e == nil || e.Member.Name != "m-1" || e.Admitted != start.Unix()-5 || l.Uses("web") != 3 || l.Len() != 1 {
			t.Errorf("taken over: %+v, %d uses, %d members", e, l.Uses("web"), l.Len())
		}
	}
	check(l)
	if _, err := dir.Get(legacy); !errors.Is(err, state.ErrNotExist) {
		t.Errorf("the former file is there still: %v", err)
	}
	if a := mustAdmit(t, l, 2, "web", start); a.String() != "10.0.0.3" {
		t.Errorf("machine 2 has %s, was leased 10.0.0.3", a)
	}
	if err := errors.Join(l.Close(), dir.Close()); err != nil {
		t.Fatal(err)
	}
	// A kill after the ledger took its name, before the former file went: the
	// ledger counts, it is not taken over again.
	dir = openDir(t, path)
	if err := dir.Put(legacy, saved); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, In(dir), "10.0.0.0/24", start)
	if l.Len() != 2 || l.Uses("web") != 4 {
		t.Errorf("%d members, %d uses after the second opening", l.Len(), l.Uses("web"))
	}
}

func TestFormerMembersThatCannotBeReadStay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	dir := openDir(t, path)
	for name, saved := range map[string][]byte{
		"junk":    []byte("junk"),
		"version": wire.Marshal(formerSaved{Version: 2, Leases: wire.Marshal([]formerLease{}), Used: map[string]uint32{}}),
		"leases":  wire.Marshal(formerSaved{Version: 1, Leases: []byte{1}, Used: map[string]uint32{}}),
	} {
		if err := dir.Put(legacy, saved); err != nil {
			t.Fatal(err)
		}
		_, err := Open(In(dir), testConfig("10.0.0.0/24"), start)
		if err == nil || !strings.Contains(err.Error(), "members.sealed") {
			t.Errorf("%s: %v", name, err)
		}
		if b, err := dir.Get(legacy); err != nil || !bytes.Equal(b, saved) {
			t.Errorf("%s: the former file is gone: %v", name, err)
		}
	}
}

// In a power cut the pages of a commit come to the disk in any order, but all
// of them before the page that makes them count (bbolt syncs in between).
func TestPowerCutInACommitLeavesTheStateBefore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	file := filepath.Join(path, File)
	dir := openDir(t, path)
	l := mustOpen(t, In(dir), "10.0.0.0/24", start)
	for n := range 20 {
		mustAdmit(t, l, n, "web", start)
	}
	before, _ := os.ReadFile(file)
	mustAdmit(t, l, 20, "web", start)
	after, _ := os.ReadFile(file)
	if err := errors.Join(l.Close(), dir.Close()); err != nil {
		t.Fatal(err)
	}
	const page, metas = 4096, 2
	rng := rand.New(rand.NewPCG(3, 4))
	for round := range 20 {
		cut := bytes.Clone(before)
		for at := metas * page; at < len(after); at += page {
			end := min(at+page, len(after))
			if len(cut) < end {
				cut = append(cut, make([]byte, end-len(cut))...)
			}
			if round == 0 || rng.IntN(2) == 0 {
				copy(cut[at:end], after[at:end])
			}
		}
		if round == 0 { // all pages, and half of the one that counts
			for i := range metas {
				copy(cut[i*page:i*page+page/64], after[i*page:i*page+page/64])
			}
		}
		if err := os.WriteFile(file, cut, 0o600); err != nil {
			t.Fatal(err)
		}
		if n, err := reopen(t, path, testConfig("10.0.0.0/24")); n != 20 || err != nil {
			t.Fatalf("round %d: %d members, want 20: %v", round, n, err)
		}
	}
}
