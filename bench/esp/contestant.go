//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"icvpn/bench/internal/measure"
	"icvpn/esp"
	"icvpn/internal/lab"
)

const (
	innerMTU   = 1400
	tunnelPort = 4500

	startTimeout = 10 * time.Second
	stopTimeout  = 5 * time.Second
)

var innerAddrs = [2]netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")}

// contestant is one way from host to host.
type contestant struct {
	name     string
	about    string
	usual    bool // runs by default
	hasSuite bool // icvpn with one of the suites
	suite    esp.Suite
	start    func(b *bench, ctx context.Context, k *link) ([]*end, error)
}

// Names that other code asks for.
const (
	reference = "wireguard-go"
	allSuites = "all-suites"
)

// contestants returns all of them in the order in which they take turns.
func contestants() (all []contestant) {
	for _, s := range esp.Suites() {
		all = append(all, contestant{
			suite: s,
			name:  "icvpn-" + s.String(), about: "icvpn tunnel, " + s.String(), hasSuite: true,
			usual: s == esp.DefaultSuite || s == esp.AES128GCM,
			start: func(b *bench, ctx context.Context, k *link) ([]*end, error) {
				return b.startICVPN(ctx, k, b.icvpn, s)
			},
		})
	}
	return append(all,
		contestant{name: reference, about: "ChaCha20-Poly1305; golang.zx2c4.com/wireguard " + wireguardVersion(), usual: true, start: (*bench).startWireguard},
		contestant{name: "no-crypto", about: "two goroutines between wireguard-go's packages tun and conn", usual: true, start: (*bench).startForwarder},
		contestant{name: "edges", about: "two goroutines between icvpn's own device and port, without cryptography: the most any cipher could leave", usual: true, start: (*bench).startEdges},
		contestant{name: "ceiling", about: "two threads of C between TUN device and port, without cryptography, checks or copies; needs cc", start: (*bench).startCeiling},
		contestant{name: "nebula", about: "AES-256-GCM; nebula and nebula-cert as installed", start: (*bench).startNebula},
		contestant{name: "no-tunnel", about: "the link itself, MTU 1500: what sender and receiver cost", usual: true},
	)
}

// besides returns the contestants with another binary of icvpn behind each one.
func besides(all []contestant) (both []contestant) {
	for _, c := range all {
		both = append(both, c)
		if !c.hasSuite {
			continue
		}
		other := c
		other.name, other.about = "versus-"+c.suite.String(), "the binary of -versus"
		other.start = func(b *bench, ctx context.Context, k *link) ([]*end, error) {
			return b.startICVPN(ctx, k, b.versus, c.suite)
		}
		both = append(both, other)
	}
	return both
}

// target is the address of the second host on the contestant's way.
func (c *contestant) target() netip.Addr {
	if c.start == nil {
		return linkAddrs[1].Addr()
	}
	return innerAddrs[1]
}

// end is a contestant's process in one host.
type end struct {
	host    *lab.Host
	process *lab.Process
	stat    measure.Process
	log     *output
}

// output keeps what a process says, to the size of a screen.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

const maxOutput = 8 << 10

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(b[:min(len(b), maxOutput-o.text.Len())])
	return len(b), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.TrimSpace(o.text.String())
}

var _ io.Writer = (*output)(nil)

// launch starts a process in a host and waits until its output has the word.
func launch(ctx context.Context, host *lab.Host, cmd *exec.Cmd, ready string) (*end, error) {
	e := &end{host: host, log: &output{}}
	cmd.Stdout, cmd.Stderr = e.log, e.log
	var err error
	if e.process, err = host.Start(cmd); err != nil {
		return nil, err
	}
	e.stat = measure.Process(e.process.Pid())
	for deadline := time.Now().Add(startTimeout); ; {
		if strings.Contains(e.log.String(), ready) {
			return e, nil
		}
		if err = e.alive(); err == nil && time.Now().After(deadline) {
			err = fmt.Errorf("not ready in %v: %s", startTimeout, e.log)
		}
		if err == nil {
			err = measure.Sleep(ctx, 5*time.Millisecond)
		}
		if err != nil {
			e.process.Kill()
			return nil, fmt.Errorf("%s in host %s: %w", filepath.Base(cmd.Path), host.Name, err)
		}
	}
}

// alive returns an error with the last words of a process that has ended.
func (e *end) alive() error {
	select {
	case <-e.process.Done():
		return fmt.Errorf("ended by itself: %s", e.log)
	default:
		return nil
	}
}

// stop ends the processes as their user would.
func stop(ends []*end) (err error) {
	for _, e := range ends {
		err = errors.Join(err, e.alive())
		_ = e.process.Signal(syscall.SIGTERM)
	}
	for _, e := range ends {
		select {
		case <-e.process.Done():
		case <-time.After(stopTimeout):
			e.process.Kill()
			<-e.process.Done()
			err = errors.Join(err, fmt.Errorf("host %s: not ended %v after SIGTERM: %s", e.host.Name, stopTimeout, e.log))
		}
	}
	return err
}

// both starts an end in each host; a failure leaves none.
func both(k *link, start func(i int) (*end, error)) (ends []*end, err error) {
	for i := range k.hosts {
		e, err := start(i)
		if err != nil {
			return nil, errors.Join(err, stop(ends))
		}
		ends = append(ends, e)
	}
	return ends, nil
}

// startICVPN runs `icvpn tunnel` with fresh keys at both ends.
func (b *bench) startICVPN(ctx context.Context, k *link, binary string, suite esp.Suite) ([]*end, error) {
	sas := [2]string{newSA(suite, 0x1001), newSA(suite, 0x2001)}
	return both(k, func(i int) (*end, error) {
		o := 1 - i
		config := fmt.Sprintf(`listen: ":%d"
addresses: [%v/32]
mtu: %d
tunnels:
  - remote: %v:%d
    suite: %v
    fresh: true
    routes: [%v/32]
    out:
%s    in:
%s`, tunnelPort, innerAddrs[i], innerMTU, linkAddrs[o].Addr(), tunnelPort, suite, innerAddrs[o], sas[i], sas[o])
		path := filepath.Join(b.dir, k.hosts[i].Name+".yaml")
		if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
			return nil, err
		}
		return launch(ctx, k.hosts[i], k.hosts[i].Command(ctx, binary, "tunnel", "--config", path), "tunnel ready")
	})
}

// newSA returns the fields of an SA with new keys.
func newSA(suite esp.Suite, spi uint32) string {
	sizes := suite.KeySizes()
	sa := fmt.Sprintf("      spi: %d\n      encryption: %s\n", spi, randomHex(sizes.Enc+sizes.Salt))
	if sizes.Int > 0 {
		sa += fmt.Sprintf("      integrity: %s\n", randomHex(sizes.Int))
	}
	return sa
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// startEnds runs this program as a contestant in both hosts.
func (b *bench) startEnds(ctx context.Context, k *link, name string, configs [2]endConfig) ([]*end, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return both(k, func(i int) (*end, error) {
		c, inner := configs[i], innerConfig(i)
		c.Addr, c.Route, c.MTU = inner.Addr, inner.Route, inner.MTU
		stdin, err := json.Marshal(c)
		if err != nil {
			return nil, err
		}
		cmd := k.hosts[i].Command(ctx, self, endCommand, name)
		cmd.Stdin = bytes.NewReader(stdin)
		return launch(ctx, k.hosts[i], cmd, endReady)
	})
}

func (b *bench) startWireguard(ctx context.Context, k *link) ([]*end, error) {
	var keys [2]*ecdh.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return nil, err
		}
	}
	var configs [2]endConfig
	for i := range configs {
		o := 1 - i
		configs[i].UAPI = fmt.Sprintf("private_key=%x\nlisten_port=%d\npublic_key=%x\nendpoint=%v:%d\nallowed_ip=%v/32\n",
			keys[i].Bytes(), tunnelPort, keys[o].PublicKey().Bytes(), linkAddrs[o].Addr(), tunnelPort, innerAddrs[o])
	}
	return b.startEnds(ctx, k, endWireguard, configs)
}

func (b *bench) startForwarder(ctx context.Context, k *link) ([]*end, error) {
	return b.startCarriers(ctx, k, endForwarder)
}

func (b *bench) startEdges(ctx context.Context, k *link) ([]*end, error) {
	return b.startCarriers(ctx, k, endEdges)
}

// startCarriers runs what carries packets as they are.
func (b *bench) startCarriers(ctx context.Context, k *link, name string) ([]*end, error) {
	var configs [2]endConfig
	for i := range configs {
		configs[i].Port, configs[i].Remote = tunnelPort, netip.AddrPortFrom(linkAddrs[1-i].Addr(), tunnelPort)
	}
	return b.startEnds(ctx, k, name, configs)
}
