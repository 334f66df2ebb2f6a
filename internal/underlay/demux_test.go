package underlay

import "testing"

func TestClassifyFollowsRFC3948(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		want Kind
	}{
		{"nothing", nil, Junk},
		{"keepalive", []byte{0xFF}, Keepalive},
		{"one other byte", []byte{0xFE}, Junk},
		{"one zero byte", []byte{0}, Junk},
		{"two keepalives in one", []byte{0xFF, 0xFF}, Junk},
		{"marker cut short", []byte{0, 0, 0}, Junk},
		{"marker alone", []byte{0, 0, 0, 0}, Junk},
		{"marker and a byte", []byte{0, 0, 0, 0, 1}, Control},
		{"marker and zeros", make([]byte, 64), Control},
		{"a relayed datagram", append([]byte{0, 0, 0, 0, 0x80}, make([]byte, 20)...), Relayed},
		{"a relayed datagram without content", append([]byte{0, 0, 0, 0, 0x80}, make([]byte, 19)...), Control},
		{"SPI alone", []byte{1, 2, 3, 4}, Junk},
		{"ESP header cut short", []byte{1, 2, 3, 4, 0, 0, 0}, Junk},
		{"ESP header", []byte{0, 0, 1, 0, 0, 0, 0, 1}, ESP},
		{"SPI with its last byte set", []byte{0, 0, 0, 1, 0, 0, 0, 1}, ESP},
		{"SPI of all ones", []byte{0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 1}, ESP},
	} {
		if got := Classify(c.in); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestKindsHaveNames(t *testing.T) {
	for k, want := range map[Kind]string{Junk: "junk", ESP: "esp", Control: "control", Keepalive: "keepalive", Relayed: "relayed"} {
		if k.String() != want {
			t.Errorf("%d: %q, want %q", k, k, want)
		}
	}
}

func FuzzClassify(f *testing.F) {
	f.Add([]byte{0xFF})
	f.Add([]byte{0, 0, 0, 0, 1})
	f.Add([]byte{0, 0, 1, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		switch k := Classify(b); k {
		case ESP:
			if len(b) < espHeaderLen || [4]byte(b) == [4]byte{} {
				t.Fatalf("% x taken for ESP", b)
			}
		case Control, Relayed:
			if len(b) <= MarkerLen || [4]byte(b) != [4]byte{} {
				t.Fatalf("% x taken for control", b)
			}
		}
	})
}
