//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// port is the console port that the tests have at its other end.
const port = "/dev/vport0p1"

// maxOutput bounds what of a script's output is sent back.
const maxOutput = 256 << 10

// request and reply are lines on the port; the tests have their twins.
type request struct {
	Script  string `json:"script"`
	Seconds int    `json:"seconds"`
}

type reply struct {
	Code   int    `json:"code"`
	Output string `json:"output"`
}

// initialise is the life of process 1. The kernel panics when it returns, and the
// machine with it ends.
func initialise() error {
	os.Setenv("PATH", "/bin")
	for _, m := range []struct{ what, where string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"},
	} {
		if err := unix.Mount(m.what, m.where, m.what, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("agent: mount %s: %w", m.where, err)
		}
	}
	if err := loadModules("/modules/order"); err != nil {
		return err
	}
	f, err := openPort()
	if err != nil {
		return err
	}
	return serve(f)
}

// loadModules says on the console which module it could not load, and goes on:
// what is missing shows in the tests.
func loadModules(order string) error {
	b, err := os.ReadFile(order)
	if err != nil {
		return err
	}
	for _, path := range strings.Fields(string(b)) {
		if err := loadModule(path); err != nil && !errors.Is(err, unix.EEXIST) {
			fmt.Printf("agent: %s: %v\n", path, err)
		}
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// openPort waits for the device, which the kernel makes at its leisure.
func openPort() (*os.File, error) {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		f, err := os.OpenFile(port, os.O_RDWR, 0)
		if err == nil || time.Now().After(deadline) {
			return f, err
		}
	}
}

// serve runs scripts until the port is gone.
func serve(f *os.File) error {
	enc := json.NewEncoder(f)
	lines := bufio.NewReader(f)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("agent: %w", err)
		}
		var r request
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("agent: request: %w", err)
		}
		if err := enc.Encode(run(r)); err != nil {
			return fmt.Errorf("agent: %w", err)
		}
	}
}

// run runs one script. Its output goes through a file: a pipe would stay open
// for as long as something that the script left in the background.
func run(r request) reply {
	out, err := os.CreateTemp("/tmp", "out")
	if err != nil {
		return reply{Code: -1, Output: err.Error()}
	}
	defer os.Remove(out.Name())
	defer out.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.Seconds)*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", r.Script)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	err = cmd.Run()
	b, _ := os.ReadFile(out.Name())
	answer := reply{Code: cmd.ProcessState.ExitCode(), Output: string(b[:min(len(b), maxOutput)])}
	switch {
	case ctx.Err() != nil:
		answer.Output += fmt.Sprintf("\nagent: killed after %d s", r.Seconds)
	case answer.Code < 0 && err != nil:
		answer.Output += "\nagent: " + err.Error()
	}
	return answer
}
