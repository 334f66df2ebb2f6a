//go:build linux

package kernel

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long to wait for what must happen. It decides how fast a
// failure is noticed, never whether there is one.
const patience = 30 * time.Second

// bootPatience covers a machine emulated on a busy one.
const bootPatience = 4 * time.Minute

// machine is a running virtual machine.
type machine struct {
	release string // of its kernel
	accel   string
	cmd     *exec.Cmd
	done    chan struct{} // closed when qemu has ended

	mu    sync.Mutex // one script after another
	port  net.Conn
	lines *bufio.Reader
}

// boot starts the machine with its network card on the wire, and waits for the
// agent. Hardware virtualisation is used where it works, which is only known
// afterwards: some machines offer it and fail.
func boot(t *testing.T, image string, w *wire) *machine {
	t.Helper()
	release, err := os.ReadFile(filepath.Join(image, "release"))
	if err != nil {
		t.Fatalf("%v; .ci/kernel makes the image", err)
	}
	var failures []error
	for _, accel := range accelerators() {
		m := &machine{release: strings.TrimSpace(string(release)), accel: accel, done: make(chan struct{})}
		if err := m.start(t, image, w); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", accel, err))
			continue
		}
		return m
	}
	t.Fatalf("the virtual machine does not start: %v", errors.Join(failures...))
	return nil
}

// acceleratorOptions: software emulation would take 1 GiB for translated code.
var acceleratorOptions = map[string]string{"kvm": "kvm", "tcg": "tcg,tb-size=128"}

func accelerators() []string {
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err == nil && (bytes.Contains(cpu, []byte(" vmx")) || bytes.Contains(cpu, []byte(" svm"))) &&
		unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) == nil {
		return []string{"kvm", "tcg"}
	}
	return []string{"tcg"}
}

func (m *machine) start(t *testing.T, image string, w *wire) error {
	t.Helper()
	dir := scratch(t)
	control, console := filepath.Join(dir, "control"), filepath.Join(dir, "console")
	m.cmd = exec.Command("qemu-system-x86_64",
		"-accel", acceleratorOptions[m.accel], "-cpu", "max", "-smp", "1", "-m", "256",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", filepath.Join(image, "vmlinuz"), "-initrd", filepath.Join(image, "initrd"),
		"-append", "console=ttyS0 quiet panic=-1", "-serial", "file:"+console,
		"-device", "virtio-serial-pci", "-chardev", "socket,id=control,server=on,wait=off,path="+control,
		"-device", "virtserialport,chardev=control",
		"-netdev", "dgram,id=wire,local.type=unix,local.path="+w.vmPath()+",remote.type=unix,remote.path="+w.ourPath(),
		"-device", "virtio-net-pci,netdev=wire,mac=52:54:00:00:00:02")
	var stderr bytes.Buffer
	m.cmd.Stdout, m.cmd.Stderr = &stderr, &stderr
	if err := m.cmd.Start(); err != nil {
		return fmt.Errorf("%w; install the Debian package qemu-system-x86", err)
	}
	go func() {
		_ = m.cmd.Wait()
		close(m.done)
	}()
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(console)
			t.Logf("console of the virtual machine, its end:\n%s", text[max(0, len(text)-4096):])
		}
		m.stop()
	})
	err := m.connect(control)
	if err == nil {
		_, err = m.sh("true", bootPatience)
	}
	if err != nil {
		m.stop()
		os.Remove(w.vmPath())
		return fmt.Errorf("%w: %s", err, stderr.String())
	}
	return nil
}

// connect reaches the agent's end of the console port, or qemu's end of it as
// long as there is no agent.
func (m *machine) connect(path string) (err error) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		select {
		case <-m.done:
			return errors.New("qemu has ended")
		default:
		}
		if m.port, err = net.Dial("unix", path); err == nil {
			m.lines = bufio.NewReader(m.port)
			return nil
		}
	}
	return err
}

func (m *machine) stop() {
	if m.port != nil {
		m.port.Close()
	}
	_ = m.cmd.Process.Kill()
	<-m.done
}

// sh runs a script in the machine. A code other than 0 is an error; the output is
// returned in any case.
func (m *machine) sh(script string, limit time.Duration) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ask, err := json.Marshal(map[string]any{"script": script, "seconds": int(limit / time.Second)})
	if err != nil {
		return "", err
	}
	// The agent ends the script; should it not answer at all, we do.
	_ = m.port.SetDeadline(time.Now().Add(limit + patience))
	if _, err := m.port.Write(append(ask, '\n')); err != nil {
		return "", fmt.Errorf("virtual machine: %w", err)
	}
	line, err := m.lines.ReadBytes('\n')
	if err != nil {
		return "", fmt.Errorf("virtual machine: %w", err)
	}
	var answer struct {
		Code   int    `json:"code"`
		Output string `json:"output"`
	}
	if err := json.Unmarshal(line, &answer); err != nil {
		return "", fmt.Errorf("virtual machine: %w", err)
	}
	if answer.Code != 0 {
		return answer.Output, &scriptError{answer.Code, answer.Output}
	}
	return answer.Output, nil
}

// scriptError is a script that ended with another code than 0.
type scriptError struct {
	code   int
	output string
}

func (e *scriptError) Error() string {
	return fmt.Sprintf("a script in the virtual machine ended with %d: %s", e.code, strings.TrimSpace(e.output))
}

// must runs a script that cannot fail.
func (m *machine) must(t *testing.T, script string) string {
	t.Helper()
	out, err := m.sh(script, patience)
	if err != nil {
		t.Fatalf("%v\nThe script:\n%s", err, script)
	}
	return out
}
