//go:build linux

package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// cloneLimit is for a machine to hear that another has its identity: until it
// reads its super peer's directory again.
const cloneLimit = 3 * time.Minute

// TestExactlyOneOfTwoMachinesWithOneIdentityWins copies a state directory: the
// machine that was admitted last is the member, the other says so and stays
// away until it is told to take over.
func TestExactlyOneOfTwoMachinesWithOneIdentityWins(t *testing.T) {
	besideOthers(t)
	w := newService(t, 2)
	near, original := w.join("web-1", "member"), w.join("app-2", "member")
	near.awaitPing("app-2")
	twin := w.peer("web-2", "member")
	twin.args = append(twin.args, "--name", "app-2")
	original.copyState(twin)
	twin.start()
	if got := twin.awaitUp(); got.PID != original.status().PID {
		t.Fatalf("the copy is %s, not %s", got.PID, original.status().PID)
	}
	original.awaitPutOut()
	near.awaitPing("app-2")
	if err := twin.ended(); err != nil {
		t.Fatalf("the later machine: %v", err)
	}

	original.start()
	original.awaitPutOut() // at once, and nobody hears of it
	if err := twin.ended(); err != nil {
		t.Fatalf("the later machine: %v", err)
	}

	args := original.args
	original.args = append(args[:len(args):len(args)], "--take-over")
	original.start()
	original.awaitUp()
	twin.awaitPutOut()
	near.awaitPing("app-2")

	// A machine that crashed is no second machine.
	original.args = args
	original.kill()
	began := time.Now()
	original.start()
	original.awaitUp()
	t.Logf("up %v after kill -9 and start", time.Since(began).Round(time.Millisecond))
	near.awaitPing("app-2")
}

// copyState gives another machine our state directory, as a copy of a virtual
// machine has it.
func (m *machine) copyState(to *machine) {
	m.w.t.Helper()
	if err := os.Mkdir(to.state(), 0o700); err != nil {
		m.w.t.Fatal(err)
	}
	for name, content := range files(m.w.t, m.state()) {
		if err := os.WriteFile(filepath.Join(to.state(), name), []byte(content), 0o600); err != nil {
			m.w.t.Fatal(err)
		}
	}
}

// awaitPutOut waits until the process has ended because another machine is the
// member.
func (m *machine) awaitPutOut() {
	m.w.t.Helper()
	m.w.eventually(m.name+" has heard of the other machine", cloneLimit, func() error {
		if m.ended() == nil {
			return errors.New("it is running")
		}
		return nil
	})
	var exit *exec.ExitError
	if err := m.process.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitRefused {
		m.w.t.Errorf("%s: %v, want exit code %d", m.name, err, exitRefused)
	}
	last := m.ended().Error()
	for _, want := range []string{"another machine with the identity", "--take-over", m.state()} {
		if !strings.Contains(last, want) {
			m.w.t.Errorf("%s says %q, without %q", m.name, last, want)
		}
	}
}
