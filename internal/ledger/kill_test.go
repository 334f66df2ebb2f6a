package ledger

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"icvpn/internal/state"
)

// A test that needs a process of its own runs this binary again in a role.
const (
	roleEnv = "ICVPN_LEDGER_TEST_ROLE"
	pathEnv = "ICVPN_LEDGER_TEST_PATH"
)

var roles = map[string]func(path string) error{"admit": admitUntilKilled}

func TestMain(m *testing.M) {
	role, ok := roles[os.Getenv(roleEnv)]
	if !ok {
		os.Exit(m.Run())
	}
	if err := role(os.Getenv(pathEnv)); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

func child(t *testing.T, role, path string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self)
	c.Env = append(os.Environ(), roleEnv+"="+role, pathEnv+"="+path)
	return c
}

// admitUntilKilled admits machines that it has never seen, many at a time, and
// prints each once it is granted.
func admitUntilKilled(path string) error {
	dir, err := state.Open(path, state.Options{})
	if err != nil {
		return err
	}
	l, err := Open(In(dir), testConfig("10.0.0.0/16"), start)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	first := l.Len()
	for worker := range 8 {
		wg.Go(func() {
			for n := first*1000 + worker; ; n += 8 {
				addr, err := admit(l, n, "web", start)
				if err != nil {
					fmt.Println(err)
					return
				}
				fmt.Printf("%d %s\n", n, addr)
			}
		})
	}
	wg.Wait()
	return nil
}

// granted reads what a child printed; the last line may be cut off.
func granted(t *testing.T, out []byte) map[int]netip.Addr {
	t.Helper()
	all := map[int]netip.Addr{}
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		var n int
		var addr string
		if _, err := fmt.Sscanf(lines.Text(), "%d %s", &n, &addr); err != nil {
			t.Fatalf("the child says %q", lines.Text())
		}
		if a, err := netip.ParseAddr(addr); err == nil && bytes.Contains(out, []byte(lines.Text()+"\n")) {
			all[n] = a
		}
	}
	return all
}

func TestKilledProcessHasKeptWhatItGranted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	all := map[int]netip.Addr{}
	for round := range 4 {
		c := child(t, "admit", path)
		var out bytes.Buffer
		c.Stdout = &out
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(100+37*round) * time.Millisecond)
		_ = c.Process.Kill()
		_ = c.Wait()
		for n, addr := range granted(t, out.Bytes()) {
			all[n] = addr
		}
		dir, err := state.Open(path, state.Options{})
		if err != nil {
			t.Fatal(err)
		}
		l, err := Open(In(dir), testConfig("10.0.0.0/16"), start)
		if err != nil {
			t.Fatal(err)
		}
		checkWhole(t, l, all)
		if err := errors.Join(l.Close(), dir.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if len(all) == 0 {
		t.Skip("the machine was too slow for a single admission")
	}
}

// checkWhole finds a machine half admitted, an address given twice, and counts
// that do not add up.
func checkWhole(t *testing.T, l *Ledger, granted map[int]netip.Addr) {
	t.Helper()
	for n, addr := range granted {
		if e := l.Member(pidOf(n)); e == nil || e.Member.Addr4() != addr {
			t.Errorf("machine %d was granted %s and is now %+v", n, addr, e)
		}
	}
	seen := map[netip.Addr]bool{}
	for _, e := range l.Members() {
		host, _ := l.book.host(e.Member.Addr4())
		if seen[e.Member.Addr4()] || l.book.hosts[host].pid != e.PID() || l.book.hosts[host].until < e.Member.NotAfter {
			t.Errorf("member %s has %s twice, or without a lease", e.PID().Short(), e.Member.Addr4())
		}
		seen[e.Member.Addr4()] = true
	}
	if taken, _ := l.Leases(); taken != l.Len() || int(l.Uses("web")) != l.Len() {
		t.Errorf("%d members, %d leases, %d uses", l.Len(), taken, l.Uses("web"))
	}
}

// A fault of any step of any admission, with the pages as bbolt left them.
func TestFaultAtEveryStepOfTheDiskLeavesItWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	all := map[int]netip.Addr{}
	n := 0
	for round, steps := range []string{"stage", "write", "commit", "committed", "written", "commit", "committed"} {
		dir := openDir(t, path)
		l := mustOpen(t, In(dir), "10.0.0.0/24", start)
		checkWhole(t, l, all)
		for range round {
			n++
			all[n] = mustAdmit(t, l, n, "web", start)
		}
		fault := func(step string) error {
			if step == steps {
				return errCrash
			}
			return nil
		}
		l.fault, l.place.store.(*bolt).fault = fault, fault
		n++
		if _, err := admit(l, n, "web", start); !errors.Is(err, errCrash) {
			t.Fatalf("%s: %v", steps, err)
		}
		if round%2 == 0 { // no kill: the process goes on, and mends
			l.fault, l.place.store.(*bolt).fault = nil, nil
			n++
			all[n] = mustAdmit(t, l, n, "web", start)
			checkWhole(t, l, all)
		}
		if err := errors.Join(l.Close(), dir.Close()); err != nil {
			t.Fatal(err)
		}
	}
	checkWhole(t, mustOpen(t, In(openDir(t, path)), "10.0.0.0/24", start), all)
}

func sentence(err error, words ...string) error {
	if err == nil {
		return errors.New("no error")
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			return fmt.Errorf("%q lacks %q", err, w)
		}
	}
	return nil
}
