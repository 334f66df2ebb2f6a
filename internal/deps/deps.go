// Package deps keeps the modules of the project in go.mod while the packages
// that use them are being written.
package deps

import (
	_ "filippo.io/bigmod"
	_ "github.com/anacrolix/dht/v2"
	_ "github.com/anacrolix/dht/v2/traversal"
	_ "github.com/anacrolix/torrent/bencode"
	_ "github.com/cloudflare/circl/abe/cpabe/tkn20"
	_ "github.com/fxamacker/cbor/v2"
	_ "github.com/goccy/go-yaml"
	_ "github.com/prometheus/client_golang/prometheus"
	_ "github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/songgao/water"
	_ "github.com/spf13/cobra"
	_ "github.com/vishvananda/netlink"
	_ "github.com/vishvananda/netns"
	_ "go.uber.org/goleak"
	_ "golang.org/x/crypto/argon2"
	_ "golang.org/x/crypto/chacha20poly1305"
	_ "golang.org/x/net/bpf"
	_ "golang.org/x/net/icmp"
	_ "golang.org/x/net/ipv4"
	_ "golang.org/x/net/ipv6"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sys/unix"
	_ "golang.org/x/term"
	_ "golang.org/x/time/rate"
	_ "golang.zx2c4.com/wireguard/tun"
	_ "pgregory.net/rapid"
)
