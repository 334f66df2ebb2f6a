//go:build linux

package kernel

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"icvpn/internal/lab"
	"icvpn/internal/lab/labtest"
)

// imageVariable names the directory that image.sh made.
const imageVariable = "ICVPN_KERNEL_IMAGE"

// binaryVariable names a binary to test instead of one built from this tree.
const binaryVariable = "ICVPN_KERNEL_BINARY"

func TestMain(m *testing.M) {
	if os.Getenv(imageVariable) == "" {
		os.Exit(m.Run()) // nothing that needs namespaces
	}
	os.Exit(labtest.Main(m))
}

// requireImage skips the test where nobody has asked for a virtual machine.
func requireImage(t *testing.T) (dir string) {
	t.Helper()
	dir = os.Getenv(imageVariable)
	if dir == "" {
		t.Skip("SKIPPED: needs a virtual machine with Debian's kernel; run .ci/kernel, which makes one and sets " + imageVariable)
	}
	labtest.RequireTUN(t)
	return dir
}

// program returns the path of the binary under test.
func program(t *testing.T) string {
	t.Helper()
	if path := os.Getenv(binaryVariable); path != "" {
		return path
	}
	path := filepath.Join(scratch(t), "icvpn")
	if out, err := exec.Command("go", "build", "-o", path, "icvpn/cmd/icvpn").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// scratch is a directory with a short name, for sockets: their paths are limited.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(lab.Scratch(), "k")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// run runs a program of this machine.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
