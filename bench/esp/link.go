//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"

	"icvpn/internal/lab"
)

// The network of every setting: two hosts of a lab, and one more veth pair that
// leads straight from one to the other, without the lab's router.
const (
	linkInterface = "link0"
	linkMTU       = 1500
)

var linkAddrs = [2]netip.Prefix{netip.MustParsePrefix("198.18.77.1/30"), netip.MustParsePrefix("198.18.77.2/30")}

// setting is what the link may do for its users.
type setting struct {
	name  string
	about string
	off   []string // features of both ends that are turned off
}

// As `ethtool -K` groups them. Not all of them exist on every device and kernel;
// those that do must be off.
var settings = []setting{
	{"on", "offloads of the link as the kernel sets them", nil},
	{"off", "tso, gso and gro off; UDP_SEGMENT trains still cross the link uncut", noTCP},
	{"off-udp", "tx-udp-segmentation off too: every datagram crosses the link alone", append([]string{"tx-udp-segmentation"}, noTCP...)},
}

var noTCP = []string{
	"tx-tcp-segmentation", "tx-tcp-ecn-segmentation", "tx-tcp-mangleid-segmentation", "tx-tcp6-segmentation", // tso
	"tx-generic-segmentation", // gso
	"rx-gro",                  // gro
}

// link is the network of one setting.
type link struct {
	setting
	lab   *lab.Lab
	hosts [2]*lab.Host
}

// newLink makes the network of a setting.
func newLink(s setting) (*link, error) {
	l, err := lab.New(lab.Config{Clouds: []lab.Cloud{{Name: "bench", Hosts: []string{"a", "b"}}}})
	if err != nil {
		return nil, err
	}
	k := &link{setting: s, lab: l, hosts: [2]*lab.Host{l.Host("a"), l.Host("b")}}
	if err = k.connect(); err != nil {
		k.close()
		return nil, fmt.Errorf("setting %s: %w", s.name, err)
	}
	return k, nil
}

func (k *link) close() { _ = k.lab.Close() }

// connect makes the link and sets it.
func (k *link) connect() error {
	var peer *os.File
	err := k.hosts[1].Do(func() (err error) {
		peer, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return err
	}
	defer peer.Close()
	err = k.hosts[0].Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = linkInterface, linkMTU
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: linkInterface, PeerMTU: linkMTU, PeerNamespace: netlink.NsFd(int(peer.Fd())),
		})
	})
	if err != nil {
		return fmt.Errorf("make the link: %w", err)
	}
	for i, h := range k.hosts {
		if err := h.Do(func() error { return setUpEnd(linkAddrs[i], k.off) }); err != nil {
			return fmt.Errorf("host %s: %w", h.Name, err)
		}
	}
	return nil
}

func setUpEnd(addr netip.Prefix, off []string) error {
	end, err := netlink.LinkByName(linkInterface)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(addr.String())
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(end, a); err != nil {
		return err
	}
	if err := turnOff(linkInterface, off); err != nil {
		return err
	}
	return netlink.LinkSetUp(end)
}
