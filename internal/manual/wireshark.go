package manual

import (
	"context"
	"fmt"
	"io"
	"net/netip"

	"icvpn/esp"
)

// wiresharkNames are a suite's algorithms as Wireshark's table of ESP SAs calls
// them.
var wiresharkNames = map[esp.Suite][2]string{
	esp.AES128CBCSHA256:  {"AES-CBC [RFC3602]", "HMAC-SHA-256-128 [RFC4868]"},
	esp.AES256CBCSHA512:  {"AES-CBC [RFC3602]", "HMAC-SHA-512-256 [RFC4868]"},
	esp.AES128GCM:        {"AES-GCM with 16 octet ICV [RFC4106]", "NULL"},
	esp.AES256GCM:        {"AES-GCM with 16 octet ICV [RFC4106]", "NULL"},
	esp.ChaCha20Poly1305: {"ChaCha20 with Poly1305 [RFC7634]", "NULL"},
}

// Wireshark writes a line for each SA in the form of the file esp_sa in
// Wireshark's profile directory. They hold the keys.
func (c *Config) Wireshark(ctx context.Context, w io.Writer) error {
	for i := range c.Tunnels {
		t := &c.Tunnels[i]
		local, err := c.localAddr(ctx, t)
		if err != nil {
			return err
		}
		remote := t.Remote.Addr()
		if _, err := io.WriteString(w, t.wireshark(local, remote, t.Out)+t.wireshark(remote, local, t.In)); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tunnel) wireshark(from, to netip.Addr, sa SA) string {
	family, length := "IPv4", "32-bit"
	if from.Is6() {
		family = "IPv6"
	}
	if t.ESN {
		length = "64-bit"
	}
	names, integrity := wiresharkNames[t.Suite], ""
	if len(sa.Keys.Int) > 0 {
		integrity = "0x" + digits(sa.Keys.Int)
	}
	return fmt.Sprintf("\"%s\",\"%v\",\"%v\",\"0x%08x\",\"%s\",\"0x%s%s\",\"%s\",\"%s\",\"%s\",\"0x00000000\"\n",
		family, from, to, sa.SPI, names[0], digits(sa.Keys.Enc), digits(sa.Keys.Salt), names[1], integrity, length)
}
