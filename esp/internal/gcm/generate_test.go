package gcm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var assembly = []string{"gcm_amd64.s", "vaes_amd64.s"}

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
	for _, name := range assembly {
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
}

// Round keys and powers of H stay in no register: VZEROUPPER alone does not reach
// the lower sixteen's lower halves, nor the upper sixteen. What blinds the tag
// does not stay in the frame of those that have one.
func TestRegistersAreClearedAtEveryReturn(t *testing.T) {
	for _, name := range assembly {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var code []string
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
				code = append(code, line)
			}
		}
		returns, large := 0, false
		for i, line := range code {
			if strings.HasPrefix(line, "TEXT") {
				large = strings.HasPrefix(line, "TEXT ·seal") || strings.HasPrefix(line, "TEXT ·open")
			}
			if line != "RET" {
				continue
			}
			returns++
			before := code[i-1]
			if large && name == "vaes_amd64.s" {
				if before != "VMOVDQU X0, 32(SP)" {
					t.Errorf("%s before a return: the frame is not cleared", before)
				}
				before = code[i-2]
			}
			switch before {
			case "VPXOR X0, X0, X0": // the only one used
			case "VZEROALL":
				if large && name == "gcm_amd64.s" && !strings.HasPrefix(code[i-2], "VPXORD Y31, Y31, Y31") {
					t.Errorf("a kernel leaves Z31 as it is: %s", code[i-2])
				}
			case "MOVL CX, ecx+0(FP)": // cpuid7
			default:
				t.Errorf("%s before a return", before)
			}
		}
		if returns < 6 {
			t.Errorf("%s: %d returns: this test no longer sees them", name, returns)
		}
	}
}
