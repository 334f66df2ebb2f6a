//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"icvpn/internal/control"
)

// TestRestartKeepsIdentityAndAddress ends a machine both ways, and starts it
// again: the others find it under the name and address that they know.
func TestRestartKeepsIdentityAndAddress(t *testing.T) {
	besideOthers(t)
	w := newService(t, 2)
	near, far := w.join("web-1", "member"), w.join("app-2", "member")
	was := far.status()
	near.awaitPing("app-2")
	for _, how := range []struct {
		name string
		end  func()
	}{{"SIGTERM", far.leave}, {"SIGKILL", far.kill}} {
		before := tunnel(t, near, "app-2").LastHandshake
		how.end()
		far.start()
		now := far.awaitUp()
		if now.PID != was.PID || now.Address4 != was.Address4 || now.Address6 != was.Address6 || now.Name != was.Name {
			t.Errorf("%s: came back as %s %s at %v and %v, was %s %s at %v and %v", how.name,
				now.Name, now.PID, now.Address4, now.Address6, was.Name, was.PID, was.Address4, was.Address6)
		}
		// The other one still has its end of the old tunnel, if nobody told it.
		began := time.Now()
		near.awaitPing("app-2")
		t.Logf("%s: reached again %v after the restart", how.name, time.Since(began).Round(time.Millisecond))
		far.awaitPing("web-1")
		if after := tunnel(t, near, "app-2").LastHandshake; !after.After(before) {
			t.Errorf("%s: the tunnel is still the one of %v", how.name, before)
		}
	}
}

// TestLeaveIsClean looks for what a machine that left could have left behind.
func TestLeaveIsClean(t *testing.T) {
	besideOthers(t)
	w := newService(t, 2)
	near, far := w.join("web-1", "member"), w.join("app-2", "member")
	near.awaitPing("app-2")
	name := far.status().Interface
	if err := far.interfaceGone(name); !errors.Is(err, errStillThere) {
		t.Fatalf("before: %v", err)
	}
	for _, how := range []struct {
		name string
		end  func()
	}{{"SIGTERM", far.leave}, {"icvpn down", far.down}} {
		how.end()
		if err := far.interfaceGone(name); err != nil {
			t.Errorf("%s: interface %s: %v", how.name, name, err)
		}
		if _, err := os.Lstat(filepath.Join(far.state(), "control.sock")); !os.IsNotExist(err) {
			t.Errorf("%s: control socket: %v", how.name, err)
		}
		if r := w.run(w.command("status", "--state-dir", far.state())); r.code != 4 || !strings.Contains(r.stderr, "no icvpn is running") {
			t.Errorf("%s: %v", how.name, r)
		}
		if p := near.peers()["app-2"]; p.State == control.TunnelUp {
			t.Errorf("%s: web-1 still has a tunnel to it", how.name)
		}
		w.eventually("web-1 knows that app-2 has left", pingLimit, func() error {
			r := w.run(w.command("ping", "-c", "1", "app-2", "--state-dir", near.state()))
			if r.code != exitFailure || !strings.Contains(r.stdout+r.stderr, "app-2 has left") {
				return errors.New(r.String())
			}
			return nil
		})
		far.start()
		far.awaitUp()
		far.awaitPing("web-1") // web-1 itself would wait a little before it looks again
		near.awaitPing("app-2")
	}
}

// down leaves by the command.
func (m *machine) down() {
	m.w.t.Helper()
	if r := m.w.run(m.w.command("down", "--state-dir", m.state())); r.code != 0 || !strings.HasPrefix(r.stdout, "left cleanly: ") {
		m.w.t.Errorf("%v", r)
	}
	select {
	case <-m.process.Done():
	case <-time.After(leaveLimit):
		m.w.t.Fatalf("%s is still there after icvpn down", m.name)
	}
	if err := m.process.Wait(); err != nil {
		m.w.t.Errorf("%s left badly: %v", m.name, err)
	}
}

var errStillThere = errors.New("still there")

func (m *machine) interfaceGone(name string) error {
	return m.host.Do(func() error {
		_, err := netlink.LinkByName(name)
		var notFound netlink.LinkNotFoundError
		switch {
		case err == nil:
			return errStillThere
		case errors.As(err, &notFound):
			return nil
		}
		return err
	})
}

// secondSignal is more than the time within which two signals count as one.
const secondSignal = 200 * time.Millisecond

// TestSecondSignalEndsAtOnce stops waiting for a leave that takes its time.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	w := newService(t, 1)
	m := w.join("web-1", "member")
	if err := m.host.SetLink(false); err != nil { // nobody to say goodbye to
		t.Fatal(err)
	}
	if err := m.process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	w.eventually("it is leaving", leaveLimit, func() error {
		s, err := m.control.Status(w.ctx)
		if err == nil && s.State != control.StateLeaving {
			err = fmt.Errorf("it is %s", s.State)
		}
		return errors.Join(err, m.ended())
	})
	time.Sleep(secondSignal)
	err := m.signal(syscall.SIGTERM)
	if err == nil || !strings.Contains(err.Error(), "143") {
		t.Errorf("ended with %v, want exit status 143", err)
	}
	if !strings.Contains(m.log(), "icvpn: ended at once by a second signal") {
		t.Error("it does not say what happened")
	}
}
