//go:build linux

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"icvpn/internal/lab"
	"icvpn/internal/lab/labtest"
)

// reexecHelper is what children of the tests below run, some of them twice:
// outside and, through lab.Main, inside namespaces of their own.
func reexecHelper(what string) int {
	inside := map[string]func() int{
		"exit code": func() int { return 42 },
		"signal":    awaitSignal,
		"hang":      hang,
		"refused":   func() int { return 0 },
	}[what]
	switch what {
	case "outside":
		_, err := lab.New(twoClouds)
		fmt.Println(err)
		return 0
	case "refused":
		// Limits of this user namespace alone, which the test made for us.
		if err := os.WriteFile("/proc/sys/user/max_net_namespaces", []byte("0"), 0); err != nil {
			fmt.Println(err)
			return 2
		}
	}
	code, err := lab.Main(inside)
	if err != nil {
		fmt.Println(err)
	}
	return code
}

// awaitSignal prints the signals it gets until the second one of a kind.
func awaitSignal() int {
	ch := make(chan os.Signal, 4)
	signal.Notify(ch, unix.SIGINT, unix.SIGTERM)
	fmt.Println("ready")
	for sig := range ch {
		fmt.Println(sig)
		if sig == unix.SIGTERM {
			return 7
		}
	}
	return 1
}

// hang prints, and waits with a child until it is killed.
func hang() int {
	child := exec.Command("/proc/self/exe", "-test.run=^TestHelper$")
	child.Env = append(os.Environ(), helperVariable+"=sleep")
	child.Stdout = os.Stdout
	if err := child.Start(); err != nil {
		return 1
	}
	fmt.Println("ready")
	time.Sleep(time.Hour)
	return 0
}

// outer starts the test binary as a program that calls lab.Main.
func outer(t *testing.T, what string) *exec.Cmd {
	t.Helper()
	labtest.Require(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-test.run=^TestHelper$")
	cmd.Env = append(os.Environ(), helperVariable+"="+what, "ICVPN_SKIP_NETNS=1")
	return cmd
}

// startOuter starts it and reads its output up to a line "ready".
func startOuter(t *testing.T, what string) (*exec.Cmd, <-chan string) {
	t.Helper()
	cmd := outer(t, what)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	out := make(chan string, 16)
	go sendWords(r, out)
	for word := range out {
		if word == "ready" {
			return cmd, out
		}
	}
	t.Fatalf("no sign of the inner run: %v", cmd.Wait())
	return nil, nil
}

func TestMainPassesTheExitCode(t *testing.T) {
	var exit *exec.ExitError
	if err := outer(t, "exit code").Run(); !errors.As(err, &exit) || exit.ExitCode() != 42 {
		t.Fatalf("got %v, want exit status 42", err)
	}
}

func TestMainPassesEachSignalOnce(t *testing.T) {
	cmd, out := startOuter(t, "signal")
	cmd.Process.Signal(unix.SIGINT)
	if got := <-out; got != "interrupt" {
		t.Fatalf("the inner run got %q", got)
	}
	cmd.Process.Signal(unix.SIGTERM)
	var rest []string
	for word := range out {
		rest = append(rest, word)
	}
	if len(rest) != 1 || rest[0] != "terminated" {
		t.Fatalf("the inner run got %q", rest)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Fatalf("got %v, want exit status 7", err)
	}
}

// TestKilledOuterRunTakesTheLabWithIt: the inner run and its child hold the
// output open, so its end is theirs.
func TestKilledOuterRunTakesTheLabWithIt(t *testing.T) {
	cmd, out := startOuter(t, "hang")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	timeout := time.After(20 * time.Second)
	for {
		select {
		case _, open := <-out:
			if !open {
				cmd.Wait()
				return
			}
		case <-timeout:
			t.Fatal("the inner run outlived the outer one")
		}
	}
}

func TestMainSaysThatNamespacesAreRefused(t *testing.T) {
	cmd := outer(t, "refused")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
	}
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "refuses network namespaces") {
		t.Fatalf("%v, output %q", err, out)
	}
	if n := strings.Count(strings.TrimSpace(string(out)), "\n"); n != 0 {
		t.Fatalf("not one line: %q", out)
	}
}

func TestNewOutsideIsRefused(t *testing.T) {
	out, err := outer(t, "outside").Output()
	if err != nil || !strings.Contains(string(out), "lab.Main") {
		t.Fatalf("%v, output %q", err, out)
	}
}

func TestCheckTUNSaysWhatIsMissing(t *testing.T) {
	labtest.Require(t)
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread goes with its mounts
		if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("tmpfs", "/dev", "tmpfs", 0, "")); err != nil {
			result <- err
			return
		}
		result <- lab.CheckTUN()
	}()
	var ue *lab.UnavailableError
	if err := <-result; !errors.As(err, &ue) || ue.Reason != lab.NoTUN {
		t.Fatalf("got %v", err)
	}
}
