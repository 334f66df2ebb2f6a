//go:build linux

package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"icvpn/internal/control"
	"icvpn/internal/lab"
	"icvpn/internal/lab/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// newFleet has a shell script in the place of the binary.
func newFleet(t *testing.T, script string) *Fleet {
	t.Helper()
	l := labtest.New(t, lab.Config{Clouds: []lab.Cloud{{Name: "east", Hosts: []string{"super-1", "web-1"}}}})
	f := &Fleet{Lab: l, Binary: filepath.Join(t.TempDir(), "icvpn"), Dir: t.TempDir(), Poll: time.Millisecond}
	if err := os.WriteFile(f.Binary, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestMachineGetsItsFilesAndArguments(t *testing.T) {
	f := newFleet(t, `echo "$@"`)
	m, err := f.StartPeer("web-1", "shop", "web")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Process.Wait(); err != nil {
		t.Fatal(err)
	}
	want := "up --token-file " + f.Path("shop", "web.token") + " --name web-1 --state-dir " + m.StateDir()
	if got := m.Log(); !slices.Equal(got, []string{want}) {
		t.Errorf("ran %q, want %q", got, want)
	}
	if _, err := f.StartSuper("super-1", "shop", 0); err != nil {
		t.Error(err)
	}
	if _, err := f.StartPeer("web-1", "shop", "web"); err == nil {
		t.Error("a second machine got the files of the first")
	}
}

func TestAwaitSaysWhyAMachineEnded(t *testing.T) {
	f := newFleet(t, `echo starting; echo "icvpn: no token"; exit 2`)
	m, err := f.Start("web-1", "up")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Await(t.Context(), time.Minute, Ready); err == nil || err.Error() != "web-1 ended: icvpn: no token" {
		t.Errorf("got %v", err)
	}
	if err := m.AwaitPing(t.Context(), "app-1", time.Minute); err == nil || !strings.Contains(err.Error(), "web-1 ended") {
		t.Errorf("got %v", err)
	}
}

func TestAwaitEndsWithItsContextAndItsLimit(t *testing.T) {
	f := newFleet(t, `echo waiting; exec sleep 600`)
	m, err := f.Start("web-1", "up")
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := m.Await(ctx, time.Minute, Ready); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	if _, err := m.Await(t.Context(), 0, Ready); err == nil || !strings.Contains(err.Error(), "not ready after 0s") {
		t.Errorf("got %v", err)
	}
}

func TestStopTellsAGoodEndFromABadOne(t *testing.T) {
	f := newFleet(t, `trap "echo left; exit $1" TERM; echo up; while :; do sleep 0.01; done`)
	for _, tt := range []struct{ host, code, want string }{
		{"web-1", "0", "<nil>"}, {"super-1", "3", "super-1 left badly: exit status 3: left"},
	} {
		m, err := f.Start(tt.host, tt.code)
		if err != nil {
			t.Fatal(err)
		}
		for m.LastLine() != "up" { // its trap is set
			if err := m.Pause(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got := fmt.Sprint(m.Stop(time.Minute)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.host, got, tt.want)
		}
	}
}

func TestCreateServiceNamesTheHostsAddresses(t *testing.T) {
	f := newFleet(t, `echo "$@"`)
	out, err := f.CreateService(t.Context(), "shop", "files", []string{"super-1"}, "--role", "web")
	want := "service create shop --out " + f.Path("files") + " --role web --super " + f.Lab.Host("super-1").Addr4.String() + ":4500\n"
	if err != nil || out != want {
		t.Errorf("ran %q, %v, want %q", out, err, want)
	}
	f = newFleet(t, `echo "icvpn: no"; exit 2`)
	if _, err := f.CreateService(t.Context(), "shop", "files", nil); err == nil || !strings.Contains(err.Error(), "icvpn: no") {
		t.Errorf("got %v", err)
	}
}

func TestReadyIsUp(t *testing.T) {
	for state, want := range map[control.State]bool{control.StateJoining: false, control.StateUp: true, control.StateLeaving: false} {
		if Ready(control.Status{State: state}) != want {
			t.Errorf("%s: ready %v", state, !want)
		}
	}
}
