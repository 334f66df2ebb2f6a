package sim

import (
	"crypto/ed25519"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"time"

	"icvpn/internal/id"
	"icvpn/overlay"
)

// contactSize is that of a sealed contact record as peers publish it.
const contactSize = 420

// superBucket is the Config.Bucket of super peers.
const superBucket = 128

var contactSalt = []byte("contact")

// node is a machine and what the scenario knows of it.
type node struct {
	index   int
	super   bool
	addr    netip.AddrPort
	key     ed25519.PublicKey
	machine *overlay.Machine
	send    func(overlay.Datagram) error
	alive   bool
	wakes   time.Duration // when it has an event to wake up; 0: none

	joined  time.Duration
	reached time.Duration // first answer of anybody, 0: not yet
	stored  time.Duration // contact record stored with a quorum, 0: not yet
	before  traffic       // when the quiet time began
}

// join makes a node and starts it.
func (w *world) join(super bool) {
	i := len(w.nodes)
	var seed [ed25519.SeedSize]byte
	binary.BigEndian.PutUint64(seed[:], w.cfg.Seed)
	binary.BigEndian.PutUint64(seed[8:], uint64(i))
	key := ed25519.NewKeyFromSeed(seed[:])
	n := &node{index: i, super: super, addr: addrOf(i), key: key.Public().(ed25519.PublicKey), alive: true, joined: w.now}
	n.send = func(d overlay.Datagram) error { return w.transmit(n, d) }
	w.nodes = append(w.nodes, n)
	cfg := overlay.Config{
		Self: id.FromKey(n.key), Local: n.addr, Bootstrap: w.superPeers, Class: w.classOf,
		Rand: rand.NewPCG(w.cfg.Seed, uint64(i)+1),
	}
	if super {
		cfg.Bucket = superBucket
	}
	var err error
	n.machine, err = overlay.NewMachine(cfg)
	if err != nil {
		panic("sim: internal error: " + err.Error())
	}
	n.machine.Start(w.time())
	record := make([]byte, contactSize)
	copy(record, n.key)
	if err := n.machine.Publish(overlay.Object{Root: overlay.SignItem(key, contactSalt, 1, record)}); err != nil {
		panic("sim: internal error: " + err.Error())
	}
	w.settle(n)
}

// superPeers are the first nodes of all.
func (w *world) superPeers() []netip.AddrPort { return w.supers }

func (w *world) classOf(key ed25519.PublicKey) overlay.Class {
	for _, n := range w.nodes[:w.cfg.SuperPeers] {
		if n.key.Equal(key) {
			return overlay.ClassSuper
		}
	}
	return overlay.ClassMember
}

// kill ends a node without a word.
func (n *node) kill() {
	n.alive = false
	n.machine = nil
}

// note is called after each step: it sees how far the node has come.
func (n *node) note(now time.Duration) {
	if n.reached == 0 && n.machine.Reached() {
		n.reached = now
	}
	if n.stored == 0 && n.machine.Stats().Published.Load() > 0 {
		n.stored = now
	}
}

// overhead is what sealing (59), UDP and IPv4 (28) add to a datagram.
const overhead = 59 + 28

// traffic is what a node sent and received, on the wire.
type traffic struct{ Datagrams, Bytes uint64 }

func (n *node) traffic() (t traffic) {
	st := n.machine.Stats()
	for _, typ := range overlay.MessageTypes() {
		for _, c := range []*overlay.Traffic{st.Sent(typ), st.ReceivedOf(typ)} {
			t.Datagrams += c.Messages.Load()
			t.Bytes += c.Bytes.Load()
		}
	}
	t.Bytes += overhead * t.Datagrams
	return t
}
