//go:build linux

package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"icvpn/internal/netcfg"
)

// Contestants that are programs of others, or none of Go's. They run when -run
// names them.

//go:embed ceiling/ceiling.c
var ceilingSource []byte

// startCeiling compiles and runs the program in ceiling/.
func (b *bench) startCeiling(ctx context.Context, k *link) ([]*end, error) {
	binary := filepath.Join(b.dir, "ceiling")
	if _, err := os.Stat(binary); errors.Is(err, os.ErrNotExist) {
		compiler := exec.CommandContext(ctx, "cc", "-O2", "-pthread", "-x", "c", "-o", binary, "-")
		compiler.Stdin = bytes.NewReader(ceilingSource)
		if out, err := compiler.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("compile ceiling.c: %w: %s", err, out)
		}
	}
	return both(k, func(i int) (*end, error) {
		port := strconv.Itoa(tunnelPort)
		cmd := k.hosts[i].Command(ctx, binary, endInterface, port, linkAddrs[1-i].Addr().String(), port)
		return b.launchOther(ctx, k, i, cmd, endReady)
	})
}

// launchOther starts an end that does not give its interface addresses, or not
// with the routes that all others have.
func (b *bench) launchOther(ctx context.Context, k *link, i int, cmd *exec.Cmd, ready string) (*end, error) {
	e, err := launch(ctx, k.hosts[i], cmd, ready)
	if err != nil {
		return nil, err
	}
	if err := b.configure(ctx, k, i); err != nil {
		return nil, errors.Join(err, stop([]*end{e}))
	}
	return e, nil
}

// configure gives the interface of an end its addresses.
func (b *bench) configure(ctx context.Context, k *link, i int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	stdin, err := json.Marshal(innerConfig(i))
	if err != nil {
		return err
	}
	cmd := k.hosts[i].Command(ctx, self, endCommand, endConfigure)
	cmd.Stdin = bytes.NewReader(stdin)
	return k.hosts[i].Run(cmd)
}

// innerConfig is the interface of host i.
func innerConfig(i int) endConfig {
	return endConfig{Addr: netip.PrefixFrom(innerAddrs[i], 32), Route: netip.PrefixFrom(innerAddrs[1-i], 32), MTU: innerMTU}
}

func (c *endConfig) apply() error {
	return netcfg.Apply(netcfg.Interface{Name: endInterface, Addrs: []netip.Prefix{c.Addr}, Routes: []netip.Prefix{c.Route}, MTU: c.MTU})
}

// startNebula runs nebula, which must be installed with nebula-cert, as two hosts
// that know each other's address: no lighthouse, no discovery, everything allowed.
func (b *bench) startNebula(ctx context.Context, k *link) ([]*end, error) {
	nebula, err := exec.LookPath("nebula")
	if err == nil {
		_, err = exec.LookPath("nebula-cert")
	}
	if err != nil {
		return nil, fmt.Errorf("install nebula and nebula-cert, or leave this contestant out: %w", err)
	}
	dir, err := os.MkdirTemp(b.dir, "nebula")
	if err != nil {
		return nil, err
	}
	cert := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "nebula-cert", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nebula-cert %s: %w: %s", args[0], err, out)
		}
		return nil
	}
	if err := cert("ca", "-name", "bench"); err != nil {
		return nil, err
	}
	return both(k, func(i int) (*end, error) {
		name, o := k.hosts[i].Name, 1-i
		if err := cert("sign", "-name", name, "-networks", innerAddrs[i].String()+"/24"); err != nil {
			return nil, err
		}
		config := fmt.Sprintf(`pki: {ca: %[1]s/ca.crt, cert: %[1]s/%[2]s.crt, key: %[1]s/%[2]s.key}
static_host_map: {"%[3]v": ["%[4]v:%[5]d"]}
lighthouse: {am_lighthouse: false, hosts: []}
listen: {host: 0.0.0.0, port: %[5]d}
tun: {dev: %[6]s, mtu: %[7]d}
cipher: aes
logging: {level: info, format: text}
firewall:
  outbound: [{port: any, proto: any, host: any}]
  inbound: [{port: any, proto: any, host: any}]
`, dir, name, innerAddrs[o], linkAddrs[o].Addr(), tunnelPort, endInterface, innerMTU)
		path := filepath.Join(dir, name+".yaml")
		if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
			return nil, err
		}
		cmd := k.hosts[i].Command(ctx, nebula, "-config", path)
		return b.launchOther(ctx, k, i, cmd, "Nebula interface is active")
	})
}
