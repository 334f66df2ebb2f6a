package superpeer

import (
	"container/list"
	"crypto/ed25519"
	"crypto/tls"
	"hash/maphash"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"icvpn/admission"
	"icvpn/internal/id"
)

// We chose:
const (
	// maxConnections is how many connections strangers may have open. One costs
	// a descriptor, a goroutine and at most some 200 kB before its proof (of
	// maxHandshake bytes of certificates), and no worker while it waits.
	maxConnections = 1024
	// keptForKnown places more are for sources that were admitted before.
	keptForKnown = 128
	// maxKnown sources are remembered, the least recently admitted go first.
	maxKnown = 4096
	// maxKnownOfNetwork of them are of one network: who has a token and a /48 must
	// not make us forget everybody else.
	maxKnownOfNetwork = 256
	// knownLife is how long: a machine renews once a credential's life, and may
	// miss one.
	knownLife = 2 * credentialLife

	// helloWait is what a peer has for its TLS handshake and its first frame: two
	// round trips, each of which may lose a segment (RFC 6298: 1 s) on a path of
	// 300 ms.
	helloWait = 5 * time.Second
	// stepWait is what it has for each further frame until it has proved its
	// secret, and for reading what we answer. After that the only bound is
	// admission.Timeout.
	stepWait = 5 * time.Second

	// regularRate is how many connections of known sources are let in in a second,
	// for each service. That of strangers is admission's default.
	regularRate = 1000
	// regularRatePerNetwork is how many of one network, and regularBurst how many
	// at once: a data center's machines behind one address renew when the super
	// peer they used dies.
	regularRatePerNetwork = 100
	regularBurst          = 512
	// renewalWorkers on each processor: a renewal waits for the disk most of its time,
	// and those that wait together share one write.
	renewalWorkers = 16
	// helloRate is how many ClientHellos are read in a second by a host of several
	// services: reading one takes some 10 us.
	helloRate = 5000

	// grantBurst and grantEvery bound the grants to one PID, each of which costs
	// an attribute key and a write to disk. A restarting machine needs one.
	grantBurst = 10
	grantEvery = 6 * time.Second
)

// door is who may come in, how many at a time, and at which pace.
type door struct {
	workers *workers
	// renewals are the workers of whoever comes with a ticket, so that newcomers
	// and members wait for their own kind only.
	renewals *workers
	throttle *admission.Throttle
	refusals *quiet
	grants   *grants
	bulk     *bulk

	mu sync.Mutex
	// Strangers and known sources have a rate in all of their own, so that a
	// flood of strangers does not take that of renewals.
	strangers, regulars *admission.Limiter
	places              places
	known               known
}

func newDoor() *door {
	return &door{
		workers:  newWorkers(2 * runtime.GOMAXPROCS(0)),
		renewals: newWorkers(renewalWorkers * runtime.GOMAXPROCS(0)),
		throttle: admission.NewThrottle(admission.ThrottleConfig{}),
		refusals: newQuiet(), grants: newGrants(), bulk: newBulk(),
		strangers: admission.NewLimiter(admission.LimiterConfig{}),
		regulars:  admission.NewLimiter(admission.LimiterConfig{Rate: regularRatePerNetwork, Burst: regularBurst, TotalRate: regularRate}),
		places:    places{byAddress: map[netip.Prefix]int{}, byNetwork: map[netip.Prefix]int{}},
		known:     known{bySource: map[netip.Prefix]*list.Element{}, byNetwork: map[netip.Prefix]int{}, recent: list.New()},
	}
}

// several makes the door one of several services: what they take in all is
// their desks' to say, once a connection has said whose it is. What is left here
// bounds how many ClientHellos are read.
func (d *door) several() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.strangers = admission.NewLimiter(admission.LimiterConfig{TotalRate: helloRate})
	d.regulars = admission.NewLimiter(admission.LimiterConfig{TotalRate: helloRate})
}

// verdict is what the door says to a new connection.
type verdict uint8

const (
	welcome  verdict = iota
	overRate         // its source has too many, or too often
	full             // nobody has a place
)

// enter takes a place for a connection from addr, to be given back with leave
// if the verdict is welcome. It costs no cryptography.
//
// Known says that somebody was admitted from this address lately: all that can
// be told of a connection before its proof. TCP shows that the other side does
// receive there. It gives the machines that are members already, renewals
// above all, places and a rate that no flood from elsewhere takes. It does not
// tell a member from its neighbours behind one NAT, nor find one again whose
// address has changed: that one queues with the strangers. It is empty after a
// restart.
func (d *door) enter(now time.Time, addr netip.Addr) (v verdict, known bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	known = d.known.has(now, addr)
	limiter := d.strangers
	if known {
		limiter = d.regulars
	}
	if v := d.places.room(addr, known); v != welcome {
		return v, known
	}
	if !limiter.Allow(now, addr) {
		return overRate, known
	}
	d.places.take(addr)
	return welcome, known
}

// leave gives back the place of a connection from addr.
func (d *door) leave(addr netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.places.leave(addr)
}

// admitted remembers that a machine was admitted from addr.
func (d *door) admitted(now time.Time, addr netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known.add(now, addr)
}

// running is the number of connections under way.
func (d *door) running() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.places.taken
}

// places counts connections by source. A source may hold a share of what is
// still free, not a number: one address a sixteenth, one network an eighth. So
// an idle super peer takes some sixty machines at once that boot behind one
// NAT, as many as the Limiter lets through, and yet no few sources fill it: n
// networks at their shares leave 8/(8+n) of the places, 100 of them still 75.
type places struct {
	taken     int
	byAddress map[netip.Prefix]int // IPv4 /32, IPv6 /64: a host, or all behind a NAT
	byNetwork map[netip.Prefix]int // IPv4 /24, IPv6 /48: what one customer easily has
}

func (p *places) room(addr netip.Addr, known bool) verdict {
	free := maxConnections - p.taken
	if known {
		free += keptForKnown
	}
	if free <= 0 {
		return full
	}
	if p.byAddress[addressOf(addr)] >= max(1, free/16) || p.byNetwork[networkOf(addr)] >= max(1, free/8) {
		return overRate
	}
	return welcome
}

func (p *places) take(addr netip.Addr) {
	p.taken++
	p.byAddress[addressOf(addr)]++
	p.byNetwork[networkOf(addr)]++
}

func (p *places) leave(addr netip.Addr) {
	p.taken--
	subtract(p.byAddress, addressOf(addr))
	subtract(p.byNetwork, networkOf(addr))
}

// subtract keeps no zeros, so that a table holds no more than there are places.
func subtract(counts map[netip.Prefix]int, key netip.Prefix) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}

func addressOf(addr netip.Addr) netip.Prefix { return prefixOf(addr, 32, 64) }
func networkOf(addr netip.Addr) netip.Prefix { return prefixOf(addr, 24, 48) }

// prefixOf returns the zero Prefix for the zero Addr: all such sources are one.
func prefixOf(addr netip.Addr, bits4, bits6 int) netip.Prefix {
	bits := bits6
	if addr.Is4() {
		bits = bits4
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// known are the addresses from which machines were admitted lately.
type known struct {
	bySource  map[netip.Prefix]*list.Element
	byNetwork map[netip.Prefix]int // how many of them
	recent    *list.List           // of knownSource, least recently admitted first
}

type knownSource struct {
	source netip.Prefix
	at     time.Time
}

func (k *known) has(now time.Time, addr netip.Addr) bool {
	e, ok := k.bySource[addressOf(addr)]
	return ok && now.Sub(e.Value.(knownSource).at) < knownLife
}

func (k *known) add(now time.Time, addr netip.Addr) {
	s := knownSource{addressOf(addr), now}
	if e, ok := k.bySource[s.source]; ok {
		e.Value = s
		k.recent.MoveToBack(e)
		return
	}
	if k.byNetwork[networkOf(addr)] >= maxKnownOfNetwork {
		k.forget(k.oldestOf(networkOf(addr)))
	}
	if k.recent.Len() >= maxKnown {
		k.forget(k.recent.Front())
	}
	k.bySource[s.source] = k.recent.PushBack(s)
	k.byNetwork[networkOf(addr)]++
}

// oldestOf returns the source of a network that was admitted least recently.
func (k *known) oldestOf(network netip.Prefix) *list.Element {
	e := k.recent.Front()
	for !network.Overlaps(e.Value.(knownSource).source) {
		e = e.Next()
	}
	return e
}

func (k *known) forget(e *list.Element) {
	source := k.recent.Remove(e).(knownSource).source
	delete(k.bySource, source)
	network := networkOf(source.Addr())
	if k.byNetwork[network]--; k.byNetwork[network] == 0 {
		delete(k.byNetwork, network)
	}
}

// grants bounds how often one PID is granted what it asks for. The table is
// fixed and indexed by a keyed hash, so nobody chooses whose share he takes.
type grants struct {
	seed  maphash.Seed
	table [1024]*rate.Limiter
}

func newGrants() *grants {
	g := &grants{seed: maphash.MakeSeed()}
	for i := range g.table {
		g.table[i] = rate.NewLimiter(rate.Every(grantEvery), grantBurst)
	}
	return g
}

func (g *grants) allow(now time.Time, pid id.ID) bool {
	return g.table[maphash.Bytes(g.seed, pid[:])%uint64(len(g.table))].AllowN(now, 1)
}

// certificate is the TLS configuration of this process, made when it is first
// needed and anew at half of its certificate's life. The key, which peers pin,
// stays.
type certificate struct {
	key ed25519.PrivateKey

	mu    sync.Mutex
	tls   *tls.Config
	renew time.Time
}

func (c *certificate) config(now time.Time) *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tls == nil || !now.Before(c.renew) {
		c.tls, c.renew = admission.ServerTLS(c.key, now), now.Add(admission.CertificateLife/2)
	}
	return c.tls
}
