//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"icvpn/internal/lab"
	"icvpn/internal/lab/labtest"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run removes the scratch directory after everything else is over.
func run(m *testing.M) int {
	defer func() {
		if !lab.Inside() && built.dir != "" {
			os.RemoveAll(built.dir)
		}
	}()
	return labtest.Main(m)
}

// built is the binary under test, made by the first test that needs it.
var built struct {
	dir, path string
	err       error
}

// binary returns the path of the program, built from this tree.
func binary(t testing.TB) string {
	t.Helper()
	if built.path == "" && built.err == nil {
		built.dir, built.path, built.err = build()
	}
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

func build() (dir, path string, err error) {
	// Where the lab has a scratch directory of its own it vanishes with the lab.
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
