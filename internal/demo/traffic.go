package demo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"icvpn/internal/lab"
	"icvpn/internal/lab/fleet"
)

// marker travels in clear inside the tunnel; the capture looks for it outside.
const marker = "order-4711-in-clear-text"

const (
	httpPort  = 8080
	bulkPort  = 5001
	bulkTime  = 1500 * time.Millisecond
	coldLimit = 20 * time.Second
)

// firstPing starts web-1 and pings app-2 in the other cloud until it answers:
// the time from a cold token to the first packet there and back.
func (d *demo) firstPing() error {
	d.show.title("web-1 starts with a cold token and pings app-2 in the other cloud")
	web, err := d.startVM("web-1")
	if err != nil {
		return err
	}
	if err := web.AwaitPing(d.ctx, "app-2", coldLimit); err != nil {
		return err
	}
	d.show.first = time.Since(web.Started)
	d.show.line("first answer %s after the process started", short(d.show.first))
	args := []string{"ping", "-c", "3", "app-2"}
	d.show.command(args)
	out, err := d.ask(web, args...)
	d.show.line("%s", out)
	return err
}

// showJoin prints the steps of web-1's join.
func (d *demo) showJoin() error {
	d.show.title("How web-1 joined")
	web := d.vm("web-1")
	if _, err := web.Await(d.ctx, joinTimeout, fleet.Ready); err != nil {
		return err
	}
	_, steps, err := web.Joined(d.ctx)
	if err != nil {
		return err
	}
	for _, s := range steps {
		d.show.line("%-11s %8.1f ms  %s", s.Name, s.DurationMS, s.Detail)
	}
	return nil
}

// showPeers prints the peer table of app-2.
func (d *demo) showPeers() error {
	d.show.title("The service as app-2 sees it")
	args := []string{"peers"}
	d.show.command(args)
	out, err := d.ask(d.vm("app-2"), args...)
	d.show.line("%s", out)
	return err
}

// watch collects what crosses the router.
type watch struct {
	mu             sync.Mutex
	packets, leaks int
	esp, ctl, tcp  int
	other          int
	sample         string // an ESP packet between two machines
	from, to       *lab.Host
}

func (w *watch) see(p lab.Packet) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.packets++
	if bytes.Contains(p.Data, []byte(marker)) {
		w.leaks++
	}
	from, to, payload, ok := p.UDP()
	switch {
	case ok && from.Port() == 4500 && to.Port() == 4500 && len(payload) > 8 && binary.BigEndian.Uint32(payload) != 0:
		w.esp++
		if isOf(from.Addr(), w.from) && isOf(to.Addr(), w.to) {
			w.sample = fmt.Sprintf("%s IP %s > %s: UDP-encap: ESP(spi=0x%08x,seq=0x%x), length %d\n           %x ...",
				p.Time.Format("15:04:05.000000"), from, to, binary.BigEndian.Uint32(payload), binary.BigEndian.Uint32(payload[4:]), len(payload), payload[8:min(len(payload), 40)])
		}
	case ok && (from.Port() == 4500 || to.Port() == 4500):
		w.ctl++
	case isTCP(p.Data):
		w.tcp++
	default:
		w.other++
	}
}

func isOf(a netip.Addr, h *lab.Host) bool { return a == h.Addr4 || a == h.Addr6 }

func isTCP(ip []byte) bool {
	return len(ip) > 20 && (ip[0]>>4 == 4 && ip[9] == 6 || ip[0]>>4 == 6 && ip[6] == 6)
}

// captured sends HTTP through the tunnels while the router listens.
func (d *demo) captured() error {
	d.show.title("HTTP: web-1 (east) asks app-2 (west), which asks db-1 (east); the router listens")
	web, app, db := d.vm("web-1"), d.vm("app-2"), d.vm("db-1")
	w := &watch{from: web.Host, to: app.Host}
	c, err := d.lab.Capture(w.see)
	if err != nil {
		return err
	}
	body, took, err := d.request(web, app, db)
	if cerr := c.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	d.show.line("GET http://app-2:%d/ -> %s (%s)", httpPort, body, short(took))
	d.show.line("%d packets crossed the router: %d ESP in UDP, %d sealed control, %d TCP, %d other", w.packets, w.esp, w.ctl, w.tcp, w.other)
	d.show.line("%s", w.sample)
	switch {
	case w.esp == 0 || w.sample == "":
		return errors.New("the capture saw no ESP between web-1 and app-2")
	case w.leaks > 0 || w.tcp > 0:
		return fmt.Errorf("clear text on the wire: %d packets with the marker, %d TCP packets", w.leaks, w.tcp)
	case c.Dropped() > 0:
		return fmt.Errorf("the capture lost %d packets", c.Dropped())
	}
	d.show.line("the text of the order is in none of them")
	return nil
}

// request serves on db and app and asks from web, all over overlay addresses.
func (d *demo) request(web, app, db *fleet.Machine) (body string, took time.Duration, err error) {
	dbAddr, err := d.overlay(db)
	if err != nil {
		return "", 0, err
	}
	appAddr, err := d.overlay(app)
	if err != nil {
		return "", 0, err
	}
	stopDB, err := serveHTTP(db, dbAddr, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "db-1 has %s", marker) })
	if err != nil {
		return "", 0, err
	}
	defer stopDB()
	stopApp, err := serveHTTP(app, appAddr, func(w http.ResponseWriter, r *http.Request) {
		answer, _, err := get(r.Context(), app, dbAddr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprintf(w, "app-2: %s", answer)
	})
	if err != nil {
		return "", 0, err
	}
	defer stopApp()
	body, took, err = get(d.ctx, web, appAddr)
	if err == nil && !strings.Contains(body, marker) {
		err = fmt.Errorf("unexpected answer %q", body)
	}
	return body, took, err
}

func (d *demo) overlay(m *fleet.Machine) (netip.Addr, error) {
	s, err := m.Control.Status(d.ctx)
	return s.Address4, err
}

func serveHTTP(m *fleet.Machine, addr netip.Addr, h http.HandlerFunc) (stop func(), err error) {
	l, err := m.Host.ListenTCP(netip.AddrPortFrom(addr, httpPort))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Name, err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.Serve(l) }()
	return func() { _ = s.Close() }, nil
}

func get(ctx context.Context, m *fleet.Machine, addr netip.Addr) (string, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	to := netip.AddrPortFrom(addr, httpPort)
	c := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return m.Host.DialTCP(ctx, to) },
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+to.String()+"/", nil)
	if err != nil {
		return "", 0, err
	}
	began := time.Now()
	resp, err := c.Do(req)
	if err != nil {
		return "", 0, fmt.Errorf("%s: %w", m.Name, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", m.Name, resp.Status, b)
	}
	return string(b), time.Since(began), err
}

// refused shows that the rules hold.
func (d *demo) refused() error {
	d.show.title("web-1 asks for db-1, which the owner's rules do not allow")
	args := []string{"ping", "-c", "1", "db-1"}
	d.show.command(args)
	out, err := d.ask(d.vm("web-1"), args...)
	if err == nil {
		return fmt.Errorf("web-1 reached db-1: %s", out)
	}
	d.show.line("%s", out)
	return nil
}

// throughput sends one TCP stream through the tunnel and one beside it.
func (d *demo) throughput() error {
	d.show.title("One TCP stream from web-1 to app-2, through the tunnel and beside it")
	web, app := d.vm("web-1"), d.vm("app-2")
	inner, err := d.overlay(app)
	if err != nil {
		return err
	}
	through, err := bulk(d.ctx, web, app, inner)
	if err != nil {
		return err
	}
	beside, err := bulk(d.ctx, web, app, app.Host.Addr4)
	if err != nil {
		return err
	}
	d.show.line("through the tunnel %8.0f Mbit/s (AES-128-CBC + HMAC-SHA2-256-128, both ends on this machine)", through)
	d.show.line("without it         %8.0f Mbit/s", beside)
	return nil
}

// bulk returns the Mbit/s that the receiver got.
func bulk(ctx context.Context, from, to *fleet.Machine, addr netip.Addr) (float64, error) {
	l, err := to.Host.ListenTCP(netip.AddrPortFrom(addr, bulkPort))
	if err != nil {
		return 0, err
	}
	defer l.Close()
	type result struct {
		bytes int64
		took  time.Duration
		err   error
	}
	done := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- result{err: err}
			return
		}
		defer c.Close()
		began := time.Now()
		n, err := io.Copy(io.Discard, c)
		done <- result{n, time.Since(began), err}
	}()
	c, err := from.Host.DialTCP(ctx, netip.AddrPortFrom(addr, bulkPort))
	if err != nil {
		return 0, err
	}
	chunk := make([]byte, 256<<10)
	_ = c.SetWriteDeadline(time.Now().Add(bulkTime))
	for {
		if _, err := c.Write(chunk); err != nil {
			break // the deadline
		}
	}
	c.Close()
	r := <-done
	if r.err != nil {
		return 0, r.err
	}
	return float64(r.bytes) * 8 / 1e6 / r.took.Seconds(), nil
}
