package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A NAT is a host of the lab that forwards for one machine behind it, as the router of a
// home or an office does:
//
//	┌ inner host ┐ eth0   inside ┌ host: NAT ┐ eth0
//	│ 10.0.0.2   ├───────────────┤ 10.0.0.1  ├────── router
//	└────────────┘               └───────────┘ 192.0.2.11
//
// What goes out gets the host's address; what comes in and answers nothing is dropped. It
// is the kernel's own: ports are kept while they are free, and let in is only the address
// and port that something was sent to (RFC 4787, Sections 4 and 5).

var (
	innerAddr = netip.MustParseAddr("10.0.0.2")
	innerGate = netip.MustParseAddr("10.0.0.1")
)

// insideInterface is the NAT's interface towards the machine behind it.
const insideInterface = "inside"

// BehindNAT makes the host a NAT and returns the machine behind it, which has an IPv4
// address only. It is in no list of the lab.
func (h *Host) BehindNAT(name string) (*Host, error) {
	ns, err := newNetns()
	if err != nil {
		return nil, err
	}
	inner := &Host{Name: name, Cloud: h.Cloud, Addr4: innerAddr, lab: h.lab, ns: ns}
	h.lab.mu.Lock()
	h.lab.inner = append(h.lab.inner, inner)
	h.lab.mu.Unlock()
	err = h.ns.do(func() error {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			return &UnavailableError{Reason: NoForwarding, Err: err}
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = insideInterface
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: hostInterface, PeerNamespace: netlink.NsFd(int(ns.file.Fd()))}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("lab: make link %s: %w", insideInterface, err)
		}
		if err := h.lab.addressEnd(insideInterface, end{addrs: []netip.Prefix{single(innerGate)}, routes: []route{{to: single(innerAddr)}}}); err != nil {
			return err
		}
		return masquerade()
	})
	if err != nil {
		return nil, fmt.Errorf("lab: NAT of %s: %w", h.Name, err)
	}
	return inner, ns.do(func() error {
		if err := linkUp("lo"); err != nil {
			return err
		}
		return h.lab.addressEnd(hostInterface, end{addrs: []netip.Prefix{single(innerAddr)}, routes: []route{
			{to: single(innerGate)}, {to: netip.PrefixFrom(netip.IPv4Unspecified(), 0), via: innerGate},
		}})
	})
}

// masquerade sets the packet filter of the thread's namespace (nftables, over netlink):
//
//	table ip lab {
//	    chain out { type nat hook postrouting priority 100; ip saddr 10.0.0.2 masquerade }
//	    chain in  { type filter hook input priority 0; policy drop }
//	}
//
// Without the second one the kernel would remember what came unasked, and give what is
// sent there later another port, as good NATs do not.
func masquerade() error {
	const table, out, in = "lab", "out", "in"
	named := func(typ uint16, s string) []byte { return attr(typ, append([]byte(s), 0)) }
	hook := func(number, priority uint32) []byte {
		return nest(unix.NFTA_CHAIN_HOOK, attr(unix.NFTA_HOOK_HOOKNUM, be32(number)), attr(unix.NFTA_HOOK_PRIORITY, be32(priority)))
	}
	expr := func(name string, data ...[]byte) []byte {
		return nest(unix.NFTA_LIST_ELEM, named(unix.NFTA_EXPR_NAME, name), nest(unix.NFTA_EXPR_DATA, data...))
	}
	source := innerAddr.As4()
	return nftables(
		message(unix.NFT_MSG_NEWTABLE, named(unix.NFTA_TABLE_NAME, table)),
		message(unix.NFT_MSG_NEWCHAIN, named(unix.NFTA_CHAIN_TABLE, table), named(unix.NFTA_CHAIN_NAME, out),
			hook(unix.NF_INET_POST_ROUTING, 100), named(unix.NFTA_CHAIN_TYPE, "nat")),
		message(unix.NFT_MSG_NEWCHAIN, named(unix.NFTA_CHAIN_TABLE, table), named(unix.NFTA_CHAIN_NAME, in),
			hook(unix.NF_INET_LOCAL_IN, 0), attr(unix.NFTA_CHAIN_POLICY, be32(0)), named(unix.NFTA_CHAIN_TYPE, "filter")),
		message(unix.NFT_MSG_NEWRULE, named(unix.NFTA_RULE_TABLE, table), named(unix.NFTA_RULE_CHAIN, out), nest(unix.NFTA_RULE_EXPRESSIONS,
			expr("payload", attr(unix.NFTA_PAYLOAD_DREG, be32(unix.NFT_REG_1)), attr(unix.NFTA_PAYLOAD_BASE, be32(unix.NFT_PAYLOAD_NETWORK_HEADER)),
				attr(unix.NFTA_PAYLOAD_OFFSET, be32(12)), attr(unix.NFTA_PAYLOAD_LEN, be32(4))),
			expr("cmp", attr(unix.NFTA_CMP_SREG, be32(unix.NFT_REG_1)), attr(unix.NFTA_CMP_OP, be32(unix.NFT_CMP_EQ)),
				nest(unix.NFTA_CMP_DATA, attr(unix.NFTA_DATA_VALUE, source[:]))),
			expr("masq"),
		)),
	)
}

func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// attr is one netlink attribute, padded.
func attr(typ uint16, data []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofNlAttr+len(data)))
	b = append(binary.NativeEndian.AppendUint16(b, typ), data...)
	return append(b, make([]byte, -len(b)&3)...)
}

func nest(typ uint16, attrs ...[]byte) []byte {
	return attr(typ|unix.NLA_F_NESTED, slices.Concat(attrs...))
}

// nfMessage is a netlink message to nftables, or one of its brackets.
type nfMessage struct {
	typ   uint16
	flags uint16
	body  []byte // struct nfgenmsg ‖ attributes
}

func message(typ uint16, attrs ...[]byte) nfMessage {
	head := []byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0}
	return nfMessage{unix.NFNL_SUBSYS_NFTABLES<<8 | typ, unix.NLM_F_CREATE | unix.NLM_F_ACK, append(head, slices.Concat(attrs...)...)}
}

// nftables carries out all of ms or nothing.
func nftables(ms ...nfMessage) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return os.NewSyscallError("netlink socket", err)
	}
	defer unix.Close(fd)
	bracket := []byte{0, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES} // the last two are big-endian
	all := append([]nfMessage{{typ: unix.NFNL_MSG_BATCH_BEGIN, body: bracket}}, ms...)
	all = append(all, nfMessage{typ: unix.NFNL_MSG_BATCH_END, body: bracket})
	var b []byte
	for i, m := range all {
		b = binary.NativeEndian.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(m.body)))
		b = binary.NativeEndian.AppendUint16(b, m.typ)
		b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|m.flags)
		b = binary.NativeEndian.AppendUint32(b, uint32(i+1))
		b = append(append(b, 0, 0, 0, 0), m.body...)
	}
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("netlink send", err)
	}
	// An answer to each of ms, in order; one that is no 0 is the error of the whole.
	buf := make([]byte, 1<<16)
	for acks := 0; acks < len(ms); {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return os.NewSyscallError("netlink receive", err)
		}
		for rest := buf[:n]; len(rest) >= unix.SizeofNlMsghdr+4; {
			size := int(binary.NativeEndian.Uint32(rest))
			if size < unix.SizeofNlMsghdr+4 || size > len(rest) {
				return errors.New("nftables: a broken answer")
			}
			if code := int32(binary.NativeEndian.Uint32(rest[unix.SizeofNlMsghdr:])); code != 0 {
				return fmt.Errorf("nftables: message %d: %w", binary.NativeEndian.Uint32(rest[8:]), unix.Errno(-code))
			}
			acks++
			rest = rest[min((size+3)&^3, len(rest)):]
		}
	}
	return nil
}
