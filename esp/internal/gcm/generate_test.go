package gcm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The assembly in the tree is what the generator makes.
func TestAssemblyIsAsGenerated(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the generator")
	}
	dir := t.TempDir()
	cmd := exec.Command("go", "run", "-C", "gen", ".", dir)
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOOS=", "GOARCH=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go run -C gen: %v\n%s", err, out)
	}
	const name = "gcm_amd64.s"
	want, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what gen makes: go generate ./esp/internal/gcm", name)
	}
}

// Round keys and powers of H stay in no register: VZEROUPPER alone does not reach
// the lower sixteen's lower halves, nor the upper sixteen.
func TestRegistersAreClearedAtEveryReturn(t *testing.T) {
	b, err := os.ReadFile("gcm_amd64.s")
	if err != nil {
		t.Fatal(err)
	}
	var code []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
			code = append(code, line)
		}
	}
	returns := 0
	for i, line := range code {
		if line != "RET" {
			continue
		}
		returns++
		switch before := code[i-1]; before {
		case "VPXOR X0, X0, X0": // the only one used
		case "VZEROALL":
			if i > 1000 && !strings.HasPrefix(code[i-2], "VPXORD Y31, Y31, Y31") {
				t.Errorf("a kernel leaves Z31 as it is: %s", code[i-2])
			}
		default:
			t.Errorf("%s before a return", before)
		}
	}
	if returns < 6 {
		t.Errorf("%d returns: this test no longer sees them", returns)
	}
}
