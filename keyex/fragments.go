package keyex

import (
	"net/netip"
	"time"
)

// fragments holds the first half of each M3 of two datagrams until the other
// half comes. Whoever fills a buffer has shown a cookie for its path.
type fragments struct {
	halves   *bounded[fragmentKey, *half]
	perSrc   map[source]int
	perRelay map[netip.Prefix]int // buffers of all allocations at one relay
}

// fragmentKey names a message under way. The epoch of the seal is part of it,
// so that a copy under another epoch is another message.
type fragmentKey struct {
	path  Path
	x     hash
	epoch uint32
}

type half struct {
	index uint8
	body  []byte
}

func newFragments() *fragments {
	f := &fragments{perSrc: make(map[source]int), perRelay: make(map[netip.Prefix]int)}
	f.halves = newBounded(fragmentsTotal, fragmentLife, func(k fragmentKey, _ *half) { f.count(k.path.source(), -1) })
	return f
}

// add returns the whole body once both halves are there. It copies what it
// keeps; the first copy of a half wins.
func (f *fragments) add(now time.Time, k fragmentKey, index uint8, body []byte) (whole []byte, d Drop) {
	if h, ok := f.halves.get(now, k); ok {
		if h.index == index {
			return nil, DropDuplicate
		}
		f.halves.remove(k)
		if index == 0 {
			return join(body, h.body), DropNone
		}
		return join(h.body, body), DropNone
	}
	src := k.path.source()
	if !f.room(src) || !f.halves.put(now, k, &half{index: index, body: append([]byte(nil), body...)}) {
		return nil, DropFragmentQuota
	}
	f.count(src, 1)
	return nil, DropNone
}

func (f *fragments) room(s source) bool {
	if s.relay != "" {
		return f.perSrc[s] < fragmentsPerRelay && f.perRelay[s.prefix] < fragmentsPerRelayHost
	}
	return f.perSrc[s] < fragmentsPerSource
}

func (f *fragments) count(s source, n int) {
	add(f.perSrc, s, n)
	if s.relay != "" {
		add(f.perRelay, s.prefix, n)
	}
}

// add changes a counter and forgets it at zero.
func add[K comparable](m map[K]int, k K, n int) {
	if m[k] += n; m[k] == 0 {
		delete(m, k)
	}
}

func join(a, b []byte) []byte {
	return append(append(make([]byte, 0, len(a)+len(b)), a...), b...)
}
