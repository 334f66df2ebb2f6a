//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"icvpn/bench/internal/measure"
	"icvpn/internal/control"
)

// machines are all addresses of a site.
var machines = netip.MustParsePrefix("172.20.0.0/14")

// claimMachines makes every address of the prefix one of this namespace's, so
// that each process and each client has its own.
func claimMachines() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	_, dst, err := net.ParseCIDR(machines.String())
	if err != nil {
		return err
	}
	return netlink.RouteReplace(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST})
}

// site is a service whose super peers are processes of the binary.
type site struct {
	*world
	bin   string
	dir   string
	procs []*proc // super peers first
}

// proc is a process of the binary.
type proc struct {
	measure.Process
	cmd     *exec.Cmd
	addr    netip.Addr
	dir     string
	control *control.Client
	ended   chan struct{}
}

// Waiting longer means that something is broken.
const (
	metricsPort  = 9464
	startTimeout = 60 * time.Second
	quietTimeout = 120 * time.Second
)

// newSite starts super peers and waits until they are ready.
func (b *bench) newSite(rec *recorder, supers int) (*site, error) {
	if err := claimMachines(); err != nil {
		return nil, fmt.Errorf("addresses of the machines: %w", err)
	}
	w, err := b.newService(supers)
	if err != nil {
		return nil, err
	}
	s := &site{world: w, bin: b.bin}
	if s.dir, err = os.MkdirTemp(b.dir, "site"); err == nil {
		err = w.svc.Write(filepath.Join(s.dir, "service"))
	}
	for i := 0; i < supers && err == nil; i++ {
		_, err = s.start(fmt.Sprintf("super-%d", i+1), superAddr(i), "super", "--config", filepath.Join(s.dir, "service", fmt.Sprintf("super-%d.yaml", i+1)))
	}
	for _, p := range s.procs {
		if err == nil {
			err = p.await(b.ctx)
		}
	}
	if err != nil {
		s.close(rec)
		return nil, err
	}
	return s, nil
}

// start runs a command of the binary at an address.
func (s *site) start(name string, at netip.Addr, args ...string) (*proc, error) {
	p := &proc{addr: at, dir: filepath.Join(s.dir, name), ended: make(chan struct{})}
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(p.dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	state := filepath.Join(p.dir, "state")
	p.cmd = exec.Command(s.bin, append(args, "--state-dir", state, "--log-level", "warn",
		"--listen", netip.AddrPortFrom(at, portNumber).String(), "--metrics-listen", netip.AddrPortFrom(at, metricsPort).String())...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.Process, p.control = measure.Process(p.cmd.Process.Pid), control.NewClient(filepath.Join(state, "control.sock"))
	go p.wait()
	s.procs = append(s.procs, p)
	return p, nil
}

func (p *proc) wait() {
	defer close(p.ended)
	_ = p.cmd.Wait()
}

// close ends every process.
func (s *site) close(rec *recorder) {
	for _, p := range s.procs {
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	s.world.close(rec)
	_ = os.RemoveAll(s.dir)
}

// await waits until the process serves.
func (p *proc) await(ctx context.Context) error {
	for end := time.Now().Add(startTimeout); ; {
		s, err := p.control.Status(ctx)
		if err == nil && s.State == control.StateUp {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("a process of icvpn ended: %s", p.lastLine())
		default:
		}
		if err := measure.Sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("a process of icvpn is not ready after %v: %s", startTimeout, p.lastLine())
		}
	}
}

func (p *proc) lastLine() string {
	b, err := os.ReadFile(filepath.Join(p.dir, "log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// quiet waits until the process uses next to no processor time, for longer than the
// pause between two attribute keys that it makes ahead for whoever comes next, and
// returns what it has used in all.
func (p *proc) quiet(ctx context.Context) (time.Duration, error) {
	const window, windows, least = 500 * time.Millisecond, 4, 30 * time.Millisecond
	end, calm := time.Now().Add(quietTimeout), 0
	for before := time.Duration(math.MaxInt64); ; {
		now, err := p.CPU()
		if err != nil {
			return 0, err
		}
		if calm++; before > now || now-before > least {
			calm = 0
		}
		if before = now; calm == windows {
			return now, nil
		}
		if time.Now().After(end) {
			return 0, fmt.Errorf("a super peer with nothing to do is still busy after %v", quietTimeout)
		}
		if err := measure.Sleep(ctx, window); err != nil {
			return 0, err
		}
	}
}

// keysAhead is the processor time that the process has spent on attribute keys made
// ahead.
func (p *proc) keysAhead(ctx context.Context) (time.Duration, error) {
	all, err := p.scrape(ctx, keysAheadMetric)
	for _, seconds := range all {
		return time.Duration(seconds * float64(time.Second)), err
	}
	return 0, errors.Join(err, errors.New("a super peer's metrics lack "+keysAheadMetric))
}

const keysAheadMetric = "icvpn_admission_attribute_keys_seconds_total"

// scrape reads the process's metrics whose names begin with prefix.
func (p *proc) scrape(ctx context.Context, prefix string) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+netip.AddrPortFrom(p.addr, metricsPort).String()+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New("metrics: " + resp.Status)
	}
	all := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, ok := cutLast(lines.Text())
		if !ok || !strings.HasPrefix(name, prefix) {
			continue
		}
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			all[name] = v
		}
	}
	return all, lines.Err()
}

// cutLast cuts a line at its last space.
func cutLast(line string) (name, value string, ok bool) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 || strings.HasPrefix(line, "#") {
		return "", "", false
	}
	return line[:i], line[i+1:], true
}

// sum adds up the figures of a metric over its labels.
func sum(all map[string]float64, name string) (total float64) {
	for n, v := range all {
		if n == name || strings.HasPrefix(n, name+"{") {
			total += v
		}
	}
	return total
}
