package manual

import (
	"strings"
	"testing"

	"icvpn/esp"
)

// The commands, word for word: they are an interface to another program.
func TestIPRoute2IsTheOtherEnd(t *testing.T) {
	c, err := Load(write(t, "sa.yaml", good(), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := c.IPRoute2(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	want := `# The other end of tunnel "berlin", for a root shell on 192.0.2.2. THIS HOLDS THE KEYS.
# They reach ip through its standard input: arguments could be read by every user.
# UDP port 4500 must be held open with UDP_ENCAP meanwhile; see docs/manual-keying.md.
ip -batch - <<'END'
xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x00001001 reqid 1 mode tunnel replay-window 4096 flag esn af-unspec enc 'cbc(aes)' 0x` + encOut + ` auth-trunc 'hmac(sha256)' 0x` + intOut + ` 128 encap espinudp 4500 4500 0.0.0.0
xfrm state add src 192.0.2.2 dst 192.0.2.1 proto esp spi 0x00002001 reqid 1 mode tunnel replay-window 4096 flag esn af-unspec enc 'cbc(aes)' 0x` + encIn + ` auth-trunc 'hmac(sha256)' 0x` + intIn + ` 128 encap espinudp 4500 4500 0.0.0.0
xfrm policy add src 10.9.0.2/32 dst 10.9.0.1/32 dir out tmpl src 192.0.2.2 dst 192.0.2.1 proto esp reqid 1 mode tunnel
xfrm policy add src 10.9.0.1/32 dst 10.9.0.2/32 dir in tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 1 mode tunnel
xfrm policy add src 10.9.0.1/32 dst 10.9.0.2/32 dir fwd tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 1 mode tunnel
xfrm policy add src fd09::2/128 dst fd09::1/128 dir out tmpl src 192.0.2.2 dst 192.0.2.1 proto esp reqid 1 mode tunnel
xfrm policy add src fd09::1/128 dst fd09::2/128 dir in tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 1 mode tunnel
xfrm policy add src fd09::1/128 dst fd09::2/128 dir fwd tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 1 mode tunnel
END
DEV=$(ip -o route get 192.0.2.1 | sed -n 's/.* dev \([^ ]*\).*/\1/p')
ip address replace 10.9.0.2/32 dev lo
ip address replace fd09::2/128 dev lo
ip route replace 10.9.0.1/32 dev "$DEV" src 10.9.0.2
ip route replace fd09::1/128 dev "$DEV" src fd09::2
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestKernelNamesOfSuites(t *testing.T) {
	k := esp.Keys{Enc: []byte{1, 2}, Int: []byte{3}, Salt: []byte{4}}
	for suite, want := range map[esp.Suite]string{
		esp.AES128CBCSHA256:  "enc 'cbc(aes)' 0x0102 auth-trunc 'hmac(sha256)' 0x03 128",
		esp.AES256CBCSHA512:  "enc 'cbc(aes)' 0x0102 auth-trunc 'hmac(sha512)' 0x03 256",
		esp.AES128GCM:        "aead 'rfc4106(gcm(aes))' 0x010204 128",
		esp.AES256GCM:        "aead 'rfc4106(gcm(aes))' 0x010204 128",
		esp.ChaCha20Poly1305: "aead 'rfc7539esp(chacha20,poly1305)' 0x010204 128",
	} {
		if got := kernelAlgorithm(suite, k); got != want {
			t.Errorf("%v: %s, want %s", suite, got, want)
		}
	}
	for _, s := range esp.Suites() {
		if wiresharkNames[s][0] == "" {
			t.Errorf("no name of %v in Wireshark's table", s)
		}
	}
}

func TestStatesWithoutESN(t *testing.T) {
	text := good("suite: aes128cbc-sha256", "esn: false\n    window: 64", `"192.0.2.1:4500"`, `"[2001:db8::1]:4501"`, "192.0.2.2:4500", `"[2001:db8::2]:4502"`)
	c, err := Load(write(t, "sa.yaml", text, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := c.IPRoute2(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"state add src 2001:db8::1 dst 2001:db8::2 proto esp spi 0x00001001 reqid 1 mode tunnel replay-window 64 flag af-unspec enc",
		"encap espinudp 4501 4502 ::\n", "encap espinudp 4502 4501 ::\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
}

func TestWiresharkLines(t *testing.T) {
	c, err := Load(write(t, "sa.yaml", good(), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := c.Wireshark(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	want := `"IPv4","192.0.2.1","192.0.2.2","0x00001001","AES-CBC [RFC3602]","0x` + encOut + `","HMAC-SHA-256-128 [RFC4868]","0x` + intOut + `","64-bit","0x00000000"
"IPv4","192.0.2.2","192.0.2.1","0x00002001","AES-CBC [RFC3602]","0x` + encIn + `","HMAC-SHA-256-128 [RFC4868]","0x` + intIn + `","64-bit","0x00000000"
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
