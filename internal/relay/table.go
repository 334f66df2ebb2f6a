package relay

import (
	"cmp"
	"hash/maphash"
	"maps"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"icvpn/internal/id"
	"icvpn/internal/underlay"
)

// Limits of a relay, in bytes and bytes a second. Zero fields have defaults.
type Limits struct {
	Allocations           int // default 4096
	Rate, Burst           int // of one member's datagrams; default 4 MiB a second, 2 MiB
	TotalRate, TotalBurst int // of all; default 32 MiB a second, 8 MiB
}

func (l Limits) withDefaults() Limits {
	l.Allocations = cmp.Or(l.Allocations, maxAllocations)
	l.Rate, l.Burst = cmp.Or(l.Rate, defaultRate), cmp.Or(l.Burst, defaultBurst)
	l.TotalRate, l.TotalBurst = cmp.Or(l.TotalRate, defaultTotalRate), cmp.Or(l.TotalBurst, defaultTotalBurst)
	return l
}

// Table is what a relay knows: the allocations of a port, of all the services that
// share it. Safe for concurrent use.
type Table struct {
	// set at start
	limits Limits
	tokens tokens
	stats  Stats
	seed   maphash.Seed
	outs   sync.Pool // of *[]underlay.Message

	mu       sync.Mutex
	of       map[ID]*allocation
	parts    map[id.ID]*part // by service
	total    bucket
	swept    time.Time
	requests *rate.Limiter
	networks map[uint64]*rate.Limiter // networkBuckets at most, made when needed: most processes relay nothing
}

// allocation is one member's. Guarded by Table.mu.
//
// Invariant: addr has shown that it receives there, by a token, and pid's key has
// signed that token.
type allocation struct {
	of      *part
	pid     id.ID
	addr    netip.AddrPort
	expires time.Time
	sends   bucket
}

// part is what one service is sure of: with n services the n-th part of a half of the
// allocations, the rate and the burst. The other half is for whoever comes; a service
// alone has all. Guarded by Table.mu.
type part struct {
	held  int // allocations
	sends bucket
}

// bucket is a token bucket of bytes.
type bucket struct {
	tokens float64
	at     time.Time
}

// fill adds what time has brought.
func (b *bucket) fill(now time.Time, perSecond, burst int) {
	if b.at.IsZero() {
		b.tokens, b.at = float64(burst), now
	}
	if since := now.Sub(b.at); since > 0 {
		b.tokens, b.at = min(b.tokens+since.Seconds()*float64(perSecond), float64(burst)), now
	}
}

// take takes n bytes if they are there.
func (b *bucket) take(now time.Time, n, perSecond, burst int) bool {
	b.fill(now, perSecond, burst)
	if b.tokens < float64(n) {
		return false
	}
	b.tokens -= float64(n)
	return true
}

// NewTable returns an empty table. key is random and secret.
func NewTable(key [32]byte, l Limits) *Table {
	t := &Table{limits: l.withDefaults(), tokens: tokens{key}, seed: maphash.MakeSeed(), of: map[ID]*allocation{}, requests: rate.NewLimiter(totalRate, totalBurst)}
	t.networks, t.parts = map[uint64]*rate.Limiter{}, map[id.ID]*part{}
	t.outs.New = func() any {
		out := make([]underlay.Message, 0, forwardBatch)
		return &out
	}
	return t
}

// Stats returns the live counters.
func (t *Table) Stats() *Stats { return &t.stats }

// Forward relays the datagrams in ms, each a message or part of a train, as far as it
// may. It borrows ms and sends what it lets through, which shares their memory, from the
// calling goroutine.
func (t *Table) Forward(now time.Time, ms []underlay.Message, send func([]underlay.Message) (int, error)) {
	pooled := t.outs.Get().(*[]underlay.Message)
	out := (*pooled)[:0]
	t.mu.Lock()
	for i := range ms {
		from := unmap(ms[i].Addr)
		for _, d := range ms[i].Datagrams() {
			to, drop := t.routeLocked(now, d, from)
			if drop != dropNone {
				t.stats.drops[drop].Add(1)
				continue
			}
			t.stats.Packets.Add(1)
			t.stats.Bytes.Add(uint64(len(d)))
			if out = append(out, underlay.Message{Buf: d, N: len(d), Addr: to, TOS: ms[i].TOS}); len(out) == cap(out) {
				t.mu.Unlock()
				_, _ = send(out) // the socket counts what it refuses
				out = out[:0]
				t.mu.Lock()
			}
		}
	}
	t.mu.Unlock()
	if len(out) > 0 {
		_, _ = send(out)
	}
	clear(out[:cap(out)])
	*pooled = out[:0]
	t.outs.Put(pooled)
}

// routeLocked says where a datagram goes, if it may. What it costs does not depend on
// what is in it.
func (t *Table) routeLocked(now time.Time, d []byte, from netip.AddrPort) (to netip.AddrPort, drop Drop) {
	toID, fromID, ok := parseHeader(d)
	if !ok {
		return to, DropMalformed
	}
	src, dst := t.of[fromID], t.of[toID]
	switch {
	case src == nil || !now.Before(src.expires):
		return to, DropUnknown
	case src.addr != from:
		return to, DropForged
	case dst == nil || !now.Before(dst.expires) || dst == src || dst.of != src.of:
		return to, DropDestination
	case !src.sends.take(now, len(d), t.limits.Rate, t.limits.Burst):
		return to, DropQuota
	case !t.takeLocked(now, src.of, len(d)):
		return to, DropTotal
	}
	return dst.addr, dropNone
}

// takeLocked takes n bytes of what is relayed in all, if a service may. What it is sure of
// is there: others go below the half only with their parts, which hold no more than that
// half, and fill half as fast.
func (t *Table) takeLocked(now time.Time, of *part, n int) bool {
	perSecond, burst := t.limits.TotalRate, t.limits.TotalBurst
	t.total.fill(now, perSecond, burst)
	if all := len(t.parts); all > 1 && t.total.tokens < float64(burst/2+n) && !of.sends.take(now, n, perSecond/(2*all), burst/(2*all)) {
		return false
	}
	return t.total.take(now, n, perSecond, burst)
}

// roomLocked says whether a service may have one allocation more. Each other one keeps
// what it has, or what it is sure of if that is more.
func (t *Table) roomLocked(of *part) bool {
	need, sure := of.held+1, t.limits.Allocations/(2*len(t.parts))
	for _, other := range t.parts {
		if other != of {
			need += max(other.held, sure)
		}
	}
	return need <= t.limits.Allocations
}

// part returns that of a service, which is one of those that share the table from now on.
func (t *Table) part(service id.ID) *part {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := t.parts[service]
	if of == nil {
		of = new(part)
		t.parts[service] = of
	}
	return of
}

// hold makes an allocation, or prolongs it, and moves it to where its member is now.
// It is false when there is no place.
func (t *Table) hold(now time.Time, a ID, of *part, pid id.ID, addr netip.AddrPort) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweepLocked(now, of)
	had := t.of[a]
	switch {
	case had == nil && !t.roomLocked(of):
		return false
	case had == nil:
		had = &allocation{of: of, pid: pid}
		t.of[a] = had
		of.held++
		t.stats.Allocations.Store(int64(len(t.of)))
	case had.of != of || had.pid != pid:
		return false // once in 2^64 / 4096 members
	}
	had.addr, had.expires = addr, now.Add(Life)
	return true
}

// holds says whether a member has an allocation there with most of its time left, so that
// another signature would change nothing.
func (t *Table) holds(now time.Time, a ID, of *part, pid id.ID, addr netip.AddrPort) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	had := t.of[a]
	return had != nil && had.of == of && had.pid == pid && had.addr == addr && had.expires.Sub(now) > Life-refreshEvery/2
}

// sweepLocked forgets what has ended: at once when there is no place for a service, else
// now and then.
func (t *Table) sweepLocked(now time.Time, of *part) {
	if now.Sub(t.swept) < sweepEvery && (now.Sub(t.swept) < time.Second || t.roomLocked(of)) {
		return
	}
	t.swept = now
	maps.DeleteFunc(t.of, func(_ ID, a *allocation) bool {
		ended := !now.Before(a.expires)
		if ended {
			a.of.held--
		}
		return ended
	})
	t.stats.Allocations.Store(int64(len(t.of)))
}

// mayVerify bounds signatures: the smaller limit first, so that what a network has too
// many of costs others nothing. Which networks share a limit nobody can choose.
func (t *Table) mayVerify(now time.Time, from netip.Addr) bool {
	bits := 56
	if from.Is4() {
		bits = 24
	}
	network, _ := from.Prefix(bits)
	at := maphash.Comparable(t.seed, network) % networkBuckets
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.networks[at] == nil {
		t.networks[at] = rate.NewLimiter(networkRate, networkBurst)
	}
	return t.networks[at].AllowN(now, 1) && t.requests.AllowN(now, 1)
}

func (t *Table) count(r Request) { t.stats.requests[r].Add(1) }

// unmap returns the one form of an address that the table has.
func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
