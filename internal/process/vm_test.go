package process

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"icvpn/internal/id"
)

func TestVMHidesTheMachineID(t *testing.T) {
	const machine = "0123456789abcdef0123456789abcdef"
	shop, other := id.ID{1}, id.ID{2}
	vm := vmOf([]byte(machine+"\n"), shop)
	if len(vm) != 16 || strings.Contains(machine, vm) {
		t.Errorf("VM %q, want 16 hexadecimal digits that are no part of the machine ID", vm)
	}
	m := hmac.New(sha256.New, []byte(machine))
	m.Write(append([]byte("icvpn/1 vm\x00"), shop[:]...))
	if want := hex.EncodeToString(m.Sum(nil))[:16]; vm != want {
		t.Errorf("VM %q, want %q", vm, want)
	}
	if vmOf([]byte(machine), shop) != vm {
		t.Error("the line's end counts")
	}
	if vmOf([]byte(machine), other) == vm {
		t.Error("two services see one VM")
	}
	if vmOf([]byte("f"+machine[1:]), shop) == vm {
		t.Error("two machines are one VM")
	}
}

func TestVMIsEmptyWithoutAMachineID(t *testing.T) {
	for _, content := range []string{"", "\n", "uninitialized\n"} {
		if vm := vmOf([]byte(content), id.ID{1}); vm != "" {
			t.Errorf("%q: VM %q", content, vm)
		}
	}
	if b, err := os.ReadFile(machineIDFile); err == nil {
		if vm := vmID(id.ID{1}); vm == strings.TrimSpace(string(b)) && vm != "" {
			t.Error("the machine ID itself is published")
		}
	}
}
