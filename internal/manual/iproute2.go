package manual

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"icvpn/esp"
)

// kernelWindow is the largest replay window of the Linux kernel
// (XFRMA_REPLAY_ESN_MAX).
const kernelWindow = 4096

// kernelAlgorithm returns a suite's part of `ip xfrm state add`. AEAD keys go
// with their salt (RFC 4106, Section 8.1); the number behind a key is the ICV's
// length in bits, which auth-trunc says expressly because the kernel's own idea
// of hmac(sha256) is 96.
func kernelAlgorithm(s esp.Suite, k esp.Keys) string {
	switch s {
	case esp.AES128CBCSHA256:
		return fmt.Sprintf("enc 'cbc(aes)' 0x%s auth-trunc 'hmac(sha256)' 0x%s 128", digits(k.Enc), digits(k.Int))
	case esp.AES256CBCSHA512:
		return fmt.Sprintf("enc 'cbc(aes)' 0x%s auth-trunc 'hmac(sha512)' 0x%s 256", digits(k.Enc), digits(k.Int))
	case esp.AES128GCM, esp.AES256GCM:
		return fmt.Sprintf("aead 'rfc4106(gcm(aes))' 0x%s%s 128", digits(k.Enc), digits(k.Salt))
	case esp.ChaCha20Poly1305:
		return fmt.Sprintf("aead 'rfc7539esp(chacha20,poly1305)' 0x%s%s 128", digits(k.Enc), digits(k.Salt))
	}
	panic("manual: internal error: no kernel algorithm for suite " + s.String())
}

// digits writes key bytes in hex. esp.Keys itself refuses to be printed.
func digits(b []byte) string { return fmt.Sprintf("%x", b) }

// IPRoute2 writes, for each tunnel, the shell commands that make a Linux kernel
// its other end. They hold the keys.
func (c *Config) IPRoute2(ctx context.Context, w io.Writer) error {
	for i := range c.Tunnels {
		t := &c.Tunnels[i]
		local, err := c.localAddr(ctx, t)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(w, c.iproute2(t, i, local)); err != nil {
			return err
		}
	}
	return nil
}

// localAddr returns the underlay address from which a tunnel's datagrams leave.
func (c *Config) localAddr(ctx context.Context, t *Tunnel) (netip.Addr, error) {
	if a := c.Listen.Addr(); a.IsValid() && !a.IsUnspecified() {
		return a.Unmap(), nil
	}
	a, _, err := pathTo(ctx, netip.Addr{}, t.Remote)
	if err != nil {
		return a, fmt.Errorf("%w; write listen: ADDRESS:PORT to say which address of this machine the tunnel uses", err)
	}
	return a, nil
}

func (c *Config) iproute2(t *Tunnel, number int, local netip.Addr) string {
	var b strings.Builder
	reqid := number + 1
	us, them := netip.AddrPortFrom(local, c.Listen.Port()), t.Remote
	fmt.Fprintf(&b, "# The other end of tunnel %q, for a root shell on %v. THIS HOLDS THE KEYS.\n", t.Name, them.Addr())
	fmt.Fprintf(&b, "# They reach ip through its standard input: arguments could be read by every user.\n")
	fmt.Fprintf(&b, "# UDP port %d must be held open with UDP_ENCAP meanwhile; see docs/manual-keying.md.\n", them.Port())
	b.WriteString("ip -batch - <<'END'\n")
	b.WriteString(t.state(us, them, t.Out, reqid)) // what we send, they receive
	b.WriteString(t.state(them, us, t.In, reqid))
	for _, p := range t.Routes {
		for _, own := range c.selectors() {
			if p.Addr().Is4() != own.Addr().Is4() {
				continue
			}
			b.WriteString(policyLine("out", p, own, them.Addr(), us.Addr(), reqid))
			b.WriteString(policyLine("in", own, p, us.Addr(), them.Addr(), reqid))
			b.WriteString(policyLine("fwd", own, p, us.Addr(), them.Addr(), reqid))
		}
	}
	b.WriteString("END\n")
	c.addresses(&b, t, us)
	return b.String()
}

// state is one SA.
func (t *Tunnel) state(from, to netip.AddrPort, sa SA, reqid int) string {
	flags, window := "af-unspec", min(t.Window, kernelWindow)
	if t.ESN {
		flags = "esn af-unspec"
	}
	return fmt.Sprintf("xfrm state add src %v dst %v proto esp spi 0x%08x reqid %d mode tunnel replay-window %d flag %s %s encap espinudp %d %d %v\n",
		from.Addr(), to.Addr(), sa.SPI, reqid, window, flags, kernelAlgorithm(t.Suite, sa.Keys), from.Port(), to.Port(), anyAddr(from.Addr()))
}

func anyAddr(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func policyLine(dir string, src, dst netip.Prefix, from, to netip.Addr, reqid int) string {
	return fmt.Sprintf("xfrm policy add src %v dst %v dir %s tmpl src %v dst %v proto esp reqid %d mode tunnel\n",
		src, dst, dir, from, to, reqid)
}

// selectors are the inner destinations of this machine.
func (c *Config) selectors() (out []netip.Prefix) {
	for _, a := range c.Addresses {
		out = append(out, netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
	}
	return append(out, c.Networks...)
}

// addresses are the inner addresses and routes of the other end: the kernel looks
// at its policies only for packets that have a route.
func (c *Config) addresses(b *strings.Builder, t *Tunnel, us netip.AddrPort) {
	fmt.Fprintf(b, "DEV=$(ip -o route get %v | sed -n 's/.* dev \\([^ ]*\\).*/\\1/p')\n", us.Addr())
	sources := map[bool]netip.Addr{}
	for _, p := range t.Routes {
		if p.IsSingleIP() {
			fmt.Fprintf(b, "ip address replace %v dev lo\n", p)
			if _, have := sources[p.Addr().Is4()]; !have {
				sources[p.Addr().Is4()] = p.Addr()
			}
		}
	}
	for _, own := range c.selectors() {
		src := ""
		if a, ok := sources[own.Addr().Is4()]; ok {
			src = fmt.Sprintf(" src %v", a)
		}
		fmt.Fprintf(b, "ip route replace %v dev \"$DEV\"%s\n", own, src)
	}
}
