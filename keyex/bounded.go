package keyex

import (
	"container/list"
	"time"
)

// bounded is a map of limited size whose entries all live equally long. It
// never evicts: what does not fit is refused, so that a flood cannot push out
// what an honest peer is in the middle of.
type bounded[K comparable, V any] struct {
	limit   int
	life    time.Duration
	onLeave func(K, V)
	byKey   map[K]*list.Element
	byAge   *list.List // of *entry[K, V], oldest first
}

type entry[K comparable, V any] struct {
	key    K
	value  V
	expiry time.Time
}

func newBounded[K comparable, V any](limit int, life time.Duration, onLeave func(K, V)) *bounded[K, V] {
	return &bounded[K, V]{limit: limit, life: life, onLeave: onLeave, byKey: make(map[K]*list.Element), byAge: list.New()}
}

// get returns the value of k if it has not expired.
func (b *bounded[K, V]) get(now time.Time, k K) (v V, ok bool) {
	b.expire(now)
	e := b.byKey[k]
	if e == nil {
		return v, false
	}
	return e.Value.(*entry[K, V]).value, true
}

// full says whether put would refuse a new key.
func (b *bounded[K, V]) full(now time.Time) bool {
	b.expire(now)
	return len(b.byKey) >= b.limit
}

// put adds k and says whether it did: not when there is no room, and not when k
// is there already.
func (b *bounded[K, V]) put(now time.Time, k K, v V) bool {
	if b.full(now) || b.byKey[k] != nil {
		return false
	}
	b.byKey[k] = b.byAge.PushBack(&entry[K, V]{key: k, value: v, expiry: now.Add(b.life)})
	return true
}

func (b *bounded[K, V]) remove(k K) {
	if e := b.byKey[k]; e != nil {
		b.drop(e)
	}
}

// expire removes what is over. Entries stand in order of expiry because they
// all live equally long; a clock that steps back only delays.
func (b *bounded[K, V]) expire(now time.Time) {
	for e := b.byAge.Front(); e != nil && !e.Value.(*entry[K, V]).expiry.After(now); e = b.byAge.Front() {
		b.drop(e)
	}
}

func (b *bounded[K, V]) drop(e *list.Element) {
	x := b.byAge.Remove(e).(*entry[K, V])
	delete(b.byKey, x.key)
	if b.onLeave != nil {
		b.onLeave(x.key, x.value)
	}
}

// dropOldest makes room in a cache, where losing an entry only costs time.
func (b *bounded[K, V]) dropOldest() {
	if e := b.byAge.Front(); e != nil {
		b.drop(e)
	}
}

func (b *bounded[K, V]) clear() {
	for e := b.byAge.Front(); e != nil; e = b.byAge.Front() {
		b.drop(e)
	}
}

func (b *bounded[K, V]) len() int { return len(b.byKey) }

// next returns when the oldest entry goes, or the zero time.
func (b *bounded[K, V]) next() time.Time {
	if e := b.byAge.Front(); e != nil {
		return e.Value.(*entry[K, V]).expiry
	}
	return time.Time{}
}
