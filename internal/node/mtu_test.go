package node

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/esp"
	"icvpn/internal/underlay/simnet"
)

// innerMTU is what a machine believes to fit on the way to another.
func (p *nodeProc) innerMTU(w *world, to *nodeProc) (mtu int) {
	w.t.Helper()
	p.onControlLoop(w, func() {
		if way := p.tunnelOf(to.self).path.Way(); way != nil {
			mtu = way.MTU
		}
	})
	return mtu
}

// full returns an inner packet of n bytes that must not be cut.
func full(from, to *nodeProc, n int) []byte {
	pkt := udp(from.addr4(), to.addr4(), 1000, 2000, 0)
	pkt = append(pkt, make([]byte, n-len(pkt))...)
	pkt[2], pkt[3], pkt[6] = byte(n>>8), byte(n), 0x40
	pkt[10], pkt[11] = 0, 0
	sum := checksum(pkt[:20])
	pkt[10], pkt[11] = byte(sum>>8), byte(sum)
	return pkt
}

// TestPathMTUFollowsTheNetwork: no black hole for any underlay MTU from 1280,
// also when it changes while the tunnel is up.
func TestPathMTUFollowsTheNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web, app := w.start("web", "web-1"), w.start("app", "app-1")
		path := func(mtu int) { // outer IPv4 packets of so many bytes pass, both ways
			link := simnet.Link{Latency: time.Millisecond, MTU: mtu - esp.OuterLen(false)}
			w.net.SetLink(web.addr, app.addr, link)
			w.net.SetLink(app.addr, web.addr, link)
		}
		w.pingOK(web, "app-1")
		time.Sleep(time.Second)
		if got := web.innerMTU(w, app); got != 1400 {
			t.Errorf("on a path of any length: MTU %d, want the interface's 1400", got)
		}
		for _, mtu := range []int{1280, 1320, 1420, 1500, 1400} {
			path(mtu)
			w.eventually(fmt.Sprint("inner MTU for a path of ", mtu), 30*time.Minute, func() bool {
				// Traffic of every length goes on meanwhile.
				for n := 100; n <= 1400; n += 325 {
					if err := web.dev.Inject(full(web, app, n)); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(500 * time.Millisecond)
				return web.innerMTU(w, app) == min(1400, esp.DefaultSuite.MaxInner(mtu, false))
			})
		}
	})
}

// TestInterfaceThatIsTooSmallIsFoundAtOnce: the kernel says so itself.
func TestInterfaceThatIsTooSmallIsFoundAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web, app := w.start("web", "web-1"), w.start("app", "app-1")
		const mtu = 1450
		w.net.SetLink(web.addr, app.addr, simnet.Link{Latency: time.Millisecond, Interface: mtu - esp.OuterLen(false)})
		w.eventually("directory", directoryHeard, func() bool { return known(w, web) == 1 })
		began := time.Now()
		want := esp.DefaultSuite.MaxInner(mtu, false)
		w.eventually("inner MTU", time.Minute, func() bool { // while packets of full length go out
			pkt := full(web, app, 1400)
			if err := web.dev.Inject(pkt); err != nil {
				t.Fatal(err)
			}
			return web.innerMTU(w, app) == want
		})
		if took := time.Since(began); took > 2*time.Second { // simulated time
			t.Errorf("it took %v", took)
		}
	})
}
