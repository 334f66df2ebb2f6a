//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"icvpn/internal/lab"
	"icvpn/internal/lab/labtest"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run removes the binary when the tests are over.
func run(m *testing.M) int {
	defer func() {
		if built.dir != "" {
			os.RemoveAll(built.dir)
		}
	}()
	return labtest.Main(m)
}

// binaryVariable names a binary to test instead of one built from this tree:
// that of a release, say.
const binaryVariable = "ICVPN_E2E_BINARY"

// built is the binary under test, made by the first test that needs it.
var built struct {
	sync.Mutex
	dir, path string
	err       error
}

// program returns the path of the binary under test.
func program(t testing.TB) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if built.path == "" {
		built.path = os.Getenv(binaryVariable)
	}
	if built.path == "" && built.err == nil {
		built.dir, built.path, built.err = build()
	}
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

func build() (dir, path string, err error) {
	if dir, err = os.MkdirTemp(lab.Scratch(), "bin"); err != nil {
		return "", "", err
	}
	path = filepath.Join(dir, "icvpn")
	cmd := exec.Command("go", "build", "-o", path, "icvpn/cmd/icvpn")
	if out, err := cmd.CombinedOutput(); err != nil {
		return dir, "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return dir, path, nil
}
