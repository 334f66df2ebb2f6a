//go:build linux

package e2e

import (
	"bytes"
	"io"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"icvpn/internal/lab"
)

// TestNoClearTextAfterTheEnd keeps a connection open while its machine leaves,
// or dies: what the kernel retransmits must not go out beside the tunnel.
func TestNoClearTextAfterTheEnd(t *testing.T) {
	besideOthers(t)
	for _, tc := range []struct {
		name     string
		v6, kill bool
	}{
		{"IPv4, leave", false, false}, {"IPv4, kill -9", false, true}, {"IPv6, leave", true, false}, {"IPv6, kill -9", true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newService(t, 1)
			web, app := w.join("web-1", "member"), w.join("app-2", "member")
			web.awaitPing("app-2")
			addr := app.addr4()
			if tc.v6 {
				addr = app.status().Address6
			}
			l := listen(t, app, netip.AddrPortFrom(addr, 6000))
			go serveHash(l)
			c, err := web.host.DialTCP(t.Context(), netip.AddrPortFrom(addr, 6000))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, "hello"); err != nil {
				t.Fatal(err)
			}
			var leaks, tcp atomic.Int32
			capture, err := w.lab.Capture(func(p lab.Packet) {
				if bytes.Contains(p.Data, []byte(marker)) {
					leaks.Add(1)
				}
				if isTCP(p.Data) {
					tcp.Add(1)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if tc.kill {
				web.kill()
			} else {
				web.leave()
			}
			_, _ = io.WriteString(c, marker) // the kernel may know already that there is no way
			time.Sleep(2 * time.Second)      // retransmissions
			capture.Close()
			if leaks.Load() != 0 || tcp.Load() != 0 {
				t.Errorf("%d packets with the text in clear and %d of TCP on the wire", leaks.Load(), tcp.Load())
			}
		})
	}
}
