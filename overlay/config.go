package overlay

import (
	"crypto/ed25519"
	crand "crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"time"

	"icvpn/internal/id"
)

// Transport sends a datagram of at most MaxPayload bytes; the real one pads it to
// PaddedLen, seals it and writes it to the shared socket. WriteTo borrows pkt
// and is called by one goroutine. An error counts as a lost datagram.
type Transport interface {
	WriteTo(pkt []byte, to netip.AddrPort) error
}

// Config says how a node takes part. Self and, for an Overlay, Transport are
// required, the zero value of anything else is its default. Its functions must be
// quick and must not call the Overlay or Machine, but for Overlay's Nodes, Stats
// and Stored.
type Config struct {
	// Self is the node ID, made from the PID and never chosen.
	Self id.ID
	// Transport sends. Required.
	Transport Transport
	// Local is our own address, as far as it is known: a node that others name
	// with it is not asked. Others are found out when they answer as ourselves.
	Local netip.AddrPort
	// Bootstrap returns the addresses to begin at: the super peers. It is called
	// again for every bootstrap, must be quick, and may return our own address.
	// Default: none, the node waits to be asked. Public nodes are never used.
	Bootstrap func() []netip.AddrPort
	// Replicas returns nodes that keep every item: each put goes to all of them
	// (at most 16), one read of each get to one. Default: Bootstrap.
	Replicas func() []netip.AddrPort
	// Supers returns the addresses of the super peers: what comes from one has room
	// beside a super peer's items. It is called for each put of others. Default:
	// Replicas.
	Supers func() []netip.AddrPort
	// Admit says whether a node may be a contact or a storing node: the place to
	// ask for its credential. Others get answers, no more. It is called for each
	// answer, and for each contact four times per Revalidate, since it may change its
	// mind: who is turned down is at once handed to nobody, and soon gone. It must be
	// quick. Default: everybody.
	Admit func(id.ID, netip.AddrPort) bool
	// Class ranks a key under which somebody puts an item, before its signature is
	// looked at. It is called for each put of others, must be quick and must not call
	// the Overlay. Chunks are under no key: those from an address of Supers have
	// room beside a super peer's items. Default: every key is a stranger's, and the
	// room of members is the strangers' too.
	Class func(ed25519.PublicKey) Class
	// Logger takes state changes. Default: nothing is logged.
	Logger *slog.Logger
	// Rand is where all randomness of a simulation comes from, secrets included.
	// Default: crypto/rand for secrets, and a generator seeded by it for the rest.
	Rand rand.Source
	// Now is the clock of an Overlay; a Machine is told the time. Default: time.Now.
	Now func() time.Time

	// Expiry is how long an item is stored after its last put; publications are
	// put again at half of it. Default 2 h, at least 1 min.
	Expiry time.Duration
	// Resend is the least time to wait for an answer before sending again. Where
	// answers take longer, the wait grows, to four times that; a silent node costs a
	// lookup three waits. Default 300 ms, 10 ms to 10 s.
	Resend time.Duration
	// Revalidate is how long a new contact may be unheard before it is asked again;
	// one that answers may be unheard for as long as it has done so, up to 15 times
	// Revalidate. Default 60 s, at least 1 s.
	Revalidate time.Duration
	// Refresh is the time between two bootstraps, which also join islands together:
	// four times that while every bootstrap address answers, a fifth of it with less
	// than 8 contacts. A bucket is walked to once in 12 times Refresh. Default 5 min,
	// at least 5 s.
	Refresh time.Duration
	// Quorum is how many nodes, this one included, must acknowledge a put; on a
	// smaller overlay, all of them. Default 3, 1 to 8.
	Quorum int
	// Bucket is how many contacts are kept for each distance. Everybody begins at the
	// super peers, so those should know many: else all newcomers are sent to the same
	// few nodes, those that were first. Default 8, at most 256.
	Bucket int
	// Paths is how many paths, which share no node, a lookup takes. Default 2, 1 to 8.
	Paths int
	// MaxObject is the largest object, in bytes, that is read. Default 64 KiB, at
	// most 1 MiB; what arrives is kept in memory until all of it is there.
	MaxObject int

	// StoreItems and StoreBytes bound what is stored for others: a quarter of each
	// for strangers, a quarter for members, half for super peers. Default 8192 items
	// and 8 MiB, which counts 256 bytes for each item besides value and salt. What
	// the node puts itself is beside that: its items are never refused, its chunks,
	// within the same bounds, displace its own oldest.
	StoreItems, StoreBytes int
	// StorePerKey bounds the items of one super peer, default 128; a member has 4.
	// StorePerReplica bounds its chunks, default 2048: the directory of 8000 members.
	// StorePerSource bounds what one IPv4 address or /64 puts as a stranger, items and
	// chunks, default 512; strangers of one /24 or /56 have twice that.
	StorePerKey, StorePerReplica, StorePerSource int

	// QueryRate is how many queries a second one node gets from us, AnswerRate how
	// many a second we answer one contact, and all others of a /24 or /56 together;
	// bursts are twice that. Default 200 and 500.
	QueryRate, AnswerRate int

	seeded bool // Rand is not ours
}

func (c Config) withDefaults() Config {
	def(&c.Expiry, 2*time.Hour)
	def(&c.Resend, 300*time.Millisecond)
	def(&c.Revalidate, time.Minute)
	def(&c.Refresh, 5*time.Minute)
	def(&c.Quorum, 3)
	def(&c.Bucket, bucketSize)
	def(&c.Paths, 2)
	def(&c.MaxObject, MaxObject)
	def(&c.StoreItems, 8192)
	def(&c.StoreBytes, 8<<20)
	def(&c.StorePerKey, 128)
	def(&c.StorePerReplica, 2048)
	def(&c.StorePerSource, 512)
	def(&c.QueryRate, 200)
	def(&c.AnswerRate, 500)
	if c.Bootstrap == nil {
		c.Bootstrap = func() []netip.AddrPort { return nil }
	}
	if c.Replicas == nil {
		c.Replicas = c.Bootstrap
	}
	if c.Supers == nil {
		c.Supers = c.Replicas
	}
	if c.Admit == nil {
		c.Admit = func(id.ID, netip.AddrPort) bool { return true }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.seeded = c.Rand != nil; !c.seeded {
		var seed [16]byte
		crand.Read(seed[:])
		c.Rand = rand.NewPCG(binary.BigEndian.Uint64(seed[:]), binary.BigEndian.Uint64(seed[8:]))
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Local = unmap(c.Local)
	return c
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c Config) validate() error {
	for _, f := range []struct {
		name string
		ok   bool
	}{
		{"Self", !c.Self.IsZero()},
		{"Expiry", c.Expiry >= time.Minute},
		{"Resend", c.Resend >= 10*time.Millisecond && c.Resend <= 10*time.Second},
		{"Revalidate", c.Revalidate >= time.Second},
		{"Refresh", c.Refresh >= 5*time.Second},
		{"Quorum", c.Quorum >= 1 && c.Quorum <= bucketSize},
		{"Bucket", c.Bucket >= bucketSize && c.Bucket <= maxBucket},
		{"Paths", c.Paths >= 1 && c.Paths <= maxPaths},
		{"MaxObject", c.MaxObject >= 1 && c.MaxObject <= MaxLargeObject},
		{"StoreItems", c.StoreItems > 0},
		{"StoreBytes", c.StoreBytes > 0},
		{"StorePerKey", c.StorePerKey > 0},
		{"StorePerReplica", c.StorePerReplica > 0},
		{"StorePerSource", c.StorePerSource > 0},
		{"QueryRate", c.QueryRate > 0},
		{"AnswerRate", c.AnswerRate > 0},
	} {
		if !f.ok {
			return badField(f.name)
		}
	}
	return nil
}

func badField(name string) error {
	return fmt.Errorf("overlay: config field %s is missing or out of range", name)
}

// secret returns the key for what peers show as a proof.
func (c Config) secret() (key [sha256.Size]byte) {
	if !c.seeded {
		crand.Read(key[:]) // never fails (crypto/rand)
		return key
	}
	for i := 0; i < len(key); i += 8 {
		binary.BigEndian.PutUint64(key[i:], c.Rand.Uint64())
	}
	return key
}

func (c Config) limits() limits {
	return limits{
		usage:  usage{c.StoreItems, c.StoreBytes},
		perKey: c.StorePerKey, perReplica: c.StorePerReplica, perSource: c.StorePerSource,
		listed: c.Class != nil,
	}
}

// unmap returns the one form of an address that this package works with: IPv4 as
// such, never as ::ffff:a.b.c.d.
func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
