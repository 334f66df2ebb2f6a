package manual

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"icvpn/esp"
	"icvpn/internal/config"
)

// key returns n bytes in hex that no other label gives.
func key(label string, n int) string {
	var out []byte
	for i := 0; len(out) < n; i++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", label, i))
		out = append(out, sum[:]...)
	}
	return hex.EncodeToString(out[:n])
}

var (
	encOut, encIn = key("enc out", 16), key("enc in", 16)
	intOut, intIn = key("int out", 32), key("int in", 32)
	gcmOut, gcmIn = key("gcm out", 20), key("gcm in", 20)
)

// good is a file that Load takes; edits replace parts of it.
func good(edits ...string) string {
	return strings.NewReplacer(append(edits,
		"ENC_OUT", encOut, "INT_OUT", intOut, "ENC_IN", encIn, "INT_IN", intIn)...).Replace(`listen: "192.0.2.1:4500"
addresses: [10.9.0.1/32, "fd09::1/128"]
tunnels:
  - name: berlin
    remote: 192.0.2.2:4500
    suite: aes128cbc-sha256
    routes: [10.9.0.2/32, "fd09::2/128"]
    out: {spi: 0x1001, encryption: ENC_OUT, integrity: INT_OUT}
    in: {spi: 0x2001, encryption: ENC_IN, integrity: INT_IN}
`)
}

func write(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadFillsEverything(t *testing.T) {
	c, err := Load(write(t, "sa.yaml", good(), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	tunnel := c.Tunnels[0]
	if c.Interface != "icvpn0" || c.Listen != netip.MustParseAddrPort("192.0.2.1:4500") || len(c.Addresses) != 2 ||
		tunnel.Name != "berlin" || !tunnel.ESN || tunnel.Window != esp.DefaultWindow || tunnel.Suite != esp.AES128CBCSHA256 ||
		tunnel.Out.SPI != 0x1001 || tunnel.In.SPI != 0x2001 || hex.EncodeToString(tunnel.Out.Keys.Enc) != encOut ||
		hex.EncodeToString(tunnel.In.Keys.Int) != intIn {
		t.Errorf("%+v", c)
	}
	c.Wipe()
	if !bytes.Equal(tunnel.Out.Keys.Enc, make([]byte, 16)) {
		t.Error("Wipe left a key")
	}
}

func TestLoadTakesKeysFromFiles(t *testing.T) {
	path := write(t, "sa.yaml", good("encryption: ENC_OUT", "encryption_file: out.key"), 0o600)
	file := filepath.Join(filepath.Dir(path), "out.key")
	if err := os.WriteFile(file, []byte("  0x"+encOut+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil || hex.EncodeToString(c.Tunnels[0].Out.Keys.Enc) != encOut {
		t.Fatalf("%v, %v", c.Tunnels, err)
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "mode 0640") {
		t.Errorf("a key file that the group may read: %v", err)
	}
}

func TestLoadOfAEAD(t *testing.T) {
	text := good("suite: aes128cbc-sha256", "suite: aes128gcm\n    fresh: true\n    esn: false\n    window: 64\n    dscp: 46\n    pad: mtu\n    clamp_mss: false\n    keepalive: 20",
		", integrity: INT_OUT", "", ", integrity: INT_IN", "", "ENC_OUT", gcmOut, "ENC_IN", gcmIn)
	c, err := Load(write(t, "sa.yaml", text, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	k := c.Tunnels[0].Out.Keys
	if hex.EncodeToString(k.Enc)+hex.EncodeToString(k.Salt) != gcmOut || c.Tunnels[0].ESN || c.Tunnels[0].Window != 64 ||
		c.Tunnels[0].Policy.DSCP != 46 || c.Tunnels[0].Policy.Pad != -1 || !c.Tunnels[0].Policy.KeepMSS || c.Tunnels[0].Keepalive != 20*time.Second {
		t.Errorf("%+v", c.Tunnels[0])
	}
}

// Every mistake is one sentence with file, line, field and a way out, and none
// shows a key.
func TestMistakes(t *testing.T) {
	second := `  - name: paris
    remote: 192.0.2.3:4500
    routes: [10.9.0.3/32]
    out: {spi: 0x1002, encryption: ` + key("a", 16) + `, integrity: ` + key("b", 32) + `}
    in: {spi: 0x2002, encryption: ` + key("c", 16) + `, integrity: ` + key("d", 32) + `}
`
	for name, c := range map[string]struct {
		text string
		want string // after the file's name
	}{
		"unknown field":      {good("listen:", "lisen:"), `:1: field "lisen": unknown; did you mean "listen"?`},
		"unknown in tunnel":  {good("remote:", "remot:"), `:5: field "tunnels[1].remot": unknown; did you mean "remote"?`},
		"no remote":          {good("    remote: 192.0.2.2:4500\n", ""), `:4: field "tunnels[1].remote": missing; write ADDRESS:PORT`},
		"unknown in SA":      {good("{spi: 0x1001", "{spj: 1, spi: 0x1001"), `:8: field "tunnels[1].out.spj": unknown; did you mean "spi"?`},
		"a key as field":     {good("{spi: 0x1001", "{"+encOut+": 1, spi: 0x1001"), `:8: field "tunnels[1].out.?": unknown; known here: spi`},
		"not YAML":           {good("tunnels:", "tunnels: ["), `not YAML`},
		"empty":              {"# nothing\n", `: is empty; check that it is the right file`},
		"listen":             {good("192.0.2.1:4500", "localhost"), `:1: field "listen": "localhost" is not a listen address`},
		"interface":          {"interface: a/b\n" + good(), `:1: field "interface": "a/b" is not an interface name`},
		"backend":            {"backend: fast\n" + good(), `:1: field "backend": "fast" is not a backend; use auto, offload or plain`},
		"no addresses":       {good("addresses: [10.9.0.1/32, \"fd09::1/128\"]\n", ""), `:1: field "addresses": missing`},
		"address":            {good("10.9.0.1/32", "10.9.0.1/33"), `:2: field "addresses": "10.9.0.1/33" is not a prefix`},
		"invisible name":     {"interface: \"a\\u200bb\"\n" + good(), `:1: field "interface": "a\u200bb" is not an interface name; use 1 to 15 characters`},
		"MTU":                {"mtu: 500\n" + good(), `:1: field "mtu": 500 is out of range; use 1280 to 9000`},
		"no tunnels":         {"addresses: [10.9.0.1]\n", `:1: field "tunnels": missing`},
		"name":               {good("berlin", "Berlin!"), `:4: field "tunnels[1].name": "Berlin!" is not a name`},
		"name twice":         {good() + strings.Replace(second, "paris", "berlin", 1), `:10: field "tunnels[2].name": "berlin" is there twice`},
		"remote":             {good("192.0.2.2:4500", "nowhere"), `:5: field "tunnels[1].remote": "nowhere" is not an address`},
		"remote is us":       {good("192.0.2.2:4500", "192.0.2.1:4500"), `:5: field "tunnels[1].remote": is this machine's own address and port`},
		"remote of nobody":   {good("192.0.2.2:4500", "0.0.0.0:4500"), `:5: field "tunnels[1].remote": "0.0.0.0:4500" is not the address of one machine`},
		"other family":       {good("192.0.2.2:4500", `"[2001:db8::2]:4500"`), `:5: field "tunnels[1].remote": "[2001:db8::2]:4500" is of another family than listen`},
		"unknown suite":      {good("aes128cbc-sha256", "des"), `:6: field "tunnels[1].suite": "des" is not a suite; use aes128cbc-sha256, aes256cbc-sha512, aes128gcm`},
		"AEAD not fresh":     {good("aes128cbc-sha256", "aes128gcm"), `:6: field "tunnels[1].suite": aes128gcm would repeat nonces after a restart with the same keys, which gives the keys away (RFC 8221, Section 4); make new keys for every start and say so with fresh: true`},
		"fresh is no word":   {good("suite: aes128cbc-sha256", "suite: aes128gcm\n    fresh: \"yes\""), `field "tunnels[1].fresh": want true or false, not text`},
		"window":             {good("suite:", "window: 100\n    suite:"), `field "tunnels[1].window": 100 is not a replay window; use a power of two`},
		"no routes":          {good("routes: [10.9.0.2/32, \"fd09::2/128\"]", "routes: []"), `field "tunnels[1].routes": missing`},
		"bits in route":      {good("10.9.0.2/32", "10.9.0.2/24"), `:7: field "tunnels[1].routes": "10.9.0.2/24" has bits behind its length; write 10.9.0.0/24`},
		"route twice":        {good() + strings.Replace(second, "10.9.0.3", "10.9.0.2", 1), `field "tunnels[2].routes": 10.9.0.2/32 leads to "berlin" already`},
		"the underlay":       {good("10.9.0.2/32", "192.0.2.0/24"), `:7: field "tunnels[1].routes": 192.0.2.0/24 contains 192.0.2.2, the underlay address of "berlin": its datagrams would go into the tunnel`},
		"default route":      {good("10.9.0.2/32", "0.0.0.0/0"), `:7: field "tunnels[1].routes": 0.0.0.0/0 contains 192.0.2.2, the underlay address`},
		"own underlay":       {good("10.9.0.2/32", "192.0.2.1/32"), `:7: field "tunnels[1].routes": 192.0.2.1/32 contains 192.0.2.1, the underlay address of this machine`},
		"own inner":          {good("10.9.0.2/32", "10.9.0.1/32"), `:7: field "tunnels[1].routes": 10.9.0.1 is this machine's own inner address`},
		"dscp":               {good("suite:", "dscp: 64\n    suite:"), `field "tunnels[1].dscp": "64" is not a DSCP; use 0 to 63, or copy`},
		"pad":                {good("suite:", "pad: much\n    suite:"), `field "tunnels[1].pad": "much" is not a multiple`},
		"keepalive":          {good("suite:", "keepalive: 4000\n    suite:"), `field "tunnels[1].keepalive": 4000 is out of range; use 1 to 3600 seconds`},
		"no SA":              {good("in: {", "# in: {"), `:4: field "tunnels[1].in": missing`},
		"no SPI":             {good("spi: 0x1001, ", ""), `:8: field "tunnels[1].out.spi": missing; use a number from 256`},
		"SPI 0":              {good("0x1001", "0"), `:8: field "tunnels[1].out.spi": 0 is reserved: 0 to 255 are no SPIs (RFC 4303, Section 2.1)`},
		"SPI 255":            {good("0x2001", "255"), `:9: field "tunnels[1].in.spi": 255 is reserved`},
		"SPI of 33 bits":     {good("0x1001", "4294967296"), `:8: field "tunnels[1].out.spi": "4294967296" is not an SPI`},
		"inbound SPI twice":  {good() + strings.Replace(second, "0x2002", "0x2001", 1), `field "tunnels[2].in": SPI 0x2001 is that of "berlin" already`},
		"outbound SPI twice": {good() + strings.NewReplacer("0x1002", "0x1001", "192.0.2.3", "192.0.2.2").Replace(second), `field "tunnels[2].out": SPI 0x1001 to 192.0.2.2:4500 is that of "berlin" already`},
		"no key":             {good("encryption: ENC_OUT, ", ""), `:8: field "tunnels[1].out.encryption": missing; write encryption_file: FILE, a file of mode 0600 with 16 bytes in hex (openssl rand -hex 16)`},
		"short key":          {good("ENC_OUT", encOut[:30]), `:8: field "tunnels[1].out.encryption": has 15 bytes, and aes128cbc-sha256 wants 16; make one with openssl rand -hex 16`},
		"long key":           {good("INT_IN", intIn+"00"), `:9: field "tunnels[1].in.integrity": has 33 bytes, and aes128cbc-sha256 wants 32`},
		"key not hex":        {good("ENC_OUT", "correct horse battery"), `:8: field "tunnels[1].out.encryption": is not in hex`},
		"zero key":           {good("ENC_OUT", strings.Repeat("00", 16)), `:8: field "tunnels[1].out.encryption": is a pattern and no key`},
		"pattern":            {good("INT_OUT", strings.Repeat("0123456789abcdef", 4)), `:8: field "tunnels[1].out.integrity": is a pattern and no key`},
		"both directions":    {good("ENC_IN", encOut), `:9: field "tunnels[1].in.encryption": repeats the encryption key of "berlin", out; use a key of its own for each direction and purpose`},
		"both purposes":      {good("INT_IN", encIn+encIn[:30]+"01"), `:9: field "tunnels[1].in.integrity": repeats the encryption key of "berlin", in`},
		"two places":         {good("encryption: ENC_OUT", "encryption: ENC_OUT, encryption_file: x"), `:8: field "tunnels[1].out.encryption": stands there and in a file`},
		"no key file":        {good("encryption: ENC_OUT", "encryption_file: nothing.key"), `nothing.key" cannot be read: no such file or directory`},
		"key file":           {good("encryption: ENC_OUT", "encryption_file: ."), `is not a file`},
		"integrity for AEAD": {good("aes128cbc-sha256", "aes128gcm\n    fresh: true", "ENC_OUT", gcmOut, "ENC_IN", gcmIn), `field "tunnels[1].out.integrity": is not for aes128gcm, which authenticates by itself; remove it`},
		"AEAD without salt":  {good("aes128cbc-sha256", "aes128gcm\n    fresh: true", ", integrity: INT_OUT", ""), `has 16 bytes, and aes128gcm wants 20 (key and salt)`},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, "sa.yaml", c.text, 0o600)
			_, err := Load(path)
			var ce *config.Error
			if !errors.As(err, &ce) {
				t.Fatalf("%v is no *config.Error", err)
			}
			got := err.Error()
			if !strings.HasPrefix(got, path) || !strings.Contains(got, c.want) {
				t.Errorf("got  %s\nwant ...%s", got, c.want)
			}
			if ce.WayOut == "" || strings.Contains(got, "\n") {
				t.Errorf("not one sentence with a way out: %s", got)
			}
			for _, secret := range []string{encOut, encIn, intOut, intIn, gcmOut, gcmIn, "correct horse"} {
				if strings.Contains(got, secret[:12]) {
					t.Errorf("shows a key: %s", got)
				}
			}
		})
	}
}

func TestFileWithKeysIsPrivate(t *testing.T) {
	_, err := Load(write(t, "sa.yaml", good(), 0o644))
	if err == nil || !strings.Contains(err.Error(), "holds keys and has mode 0644: other users may read it; chmod 600 it") {
		t.Errorf("%v", err)
	}
}

func TestFileWithoutKeysMayBeRead(t *testing.T) {
	path := write(t, "sa.yaml", good(
		"encryption: ENC_OUT", "encryption_file: a", "integrity: INT_OUT", "integrity_file: b",
		"encryption: ENC_IN", "encryption_file: c", "integrity: INT_IN", "integrity_file: d"), 0o644)
	for name, key := range map[string]string{"a": encOut, "b": intOut, "c": encIn, "d": intIn} {
		if err := os.WriteFile(filepath.Join(filepath.Dir(path), name), []byte(key), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Load(path); err != nil {
		t.Error(err)
	}
}

func TestLoadSaysWhatCannotBeRead(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none.yaml")); err == nil || !strings.Contains(err.Error(), "cannot be read: no such file") {
		t.Errorf("%v", err)
	}
}

// Each process makes its IVs from a key of its own: a second start with the same
// file repeats no IV (and no packet).
func TestRestartRepeatsNoIV(t *testing.T) {
	c, err := Load(write(t, "sa.yaml", good(), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	first, second := withIV(c.Tunnels[0].Out.Keys, c.Tunnels[0].Suite), withIV(c.Tunnels[0].Out.Keys, c.Tunnels[0].Suite)
	if len(first.IV) != 16 || bytes.Equal(first.IV, second.IV) {
		t.Error("two starts share the key of their IVs")
	}
}

// The longest prefix decides, and the source of what comes in is held against
// the same table.
func TestRoutes(t *testing.T) {
	var r routes
	wide, narrow := &peer{}, &peer{}
	r.add(netip.MustParsePrefix("10.0.0.0/8"), wide)
	r.add(netip.MustParsePrefix("10.9.0.0/16"), narrow)
	for a, want := range map[string]*peer{"10.1.2.3": wide, "10.9.1.1": narrow, "11.0.0.1": nil, "fd09::1": nil} {
		if r.find(netip.MustParseAddr(a)) != want {
			t.Errorf("%s leads elsewhere", a)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(good())
	f.Add("tunnels: [{}]\naddresses: [10.0.0.1]\n")
	f.Add("tunnels:\n  - out: {spi: [1]}\n    routes: {a: b}\n")
	path := filepath.Join(f.TempDir(), "sa.yaml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := Load(path); err == nil {
			c.Wipe()
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("more than one line: %q", err)
		}
	})
}
