package ledger

import "container/heap"

// queue orders keys by a time: Min, Set and Remove in O(log n). The zero value
// is empty.
type queue[K comparable] struct {
	h  dues[K]
	at map[K]int // index in h
}

type due[K comparable] struct {
	key  K
	when int64
}

// Set enters key, or moves it.
func (q *queue[K]) Set(key K, when int64) {
	if i, ok := q.at[key]; ok {
		q.h.items[i].when = when
		heap.Fix(&q.h, i)
		return
	}
	if q.at == nil {
		q.at = map[K]int{}
		q.h.at = q.at
	}
	heap.Push(&q.h, due[K]{key, when})
}

// Remove takes key out, if it is there.
func (q *queue[K]) Remove(key K) bool {
	i, ok := q.at[key]
	if ok {
		heap.Remove(&q.h, i)
	}
	return ok
}

// Min returns what is due first.
func (q *queue[K]) Min() (key K, when int64, ok bool) {
	if len(q.h.items) == 0 {
		return key, 0, false
	}
	return q.h.items[0].key, q.h.items[0].when, true
}

// Has says whether key is in q.
func (q *queue[K]) Has(key K) bool { _, ok := q.at[key]; return ok }

func (q *queue[K]) Len() int { return len(q.h.items) }

// dues implements heap.Interface and keeps at true.
type dues[K comparable] struct {
	items []due[K]
	at    map[K]int
}

func (d *dues[K]) Len() int           { return len(d.items) }
func (d *dues[K]) Less(i, j int) bool { return d.items[i].when < d.items[j].when }

func (d *dues[K]) Swap(i, j int) {
	d.items[i], d.items[j] = d.items[j], d.items[i]
	d.at[d.items[i].key], d.at[d.items[j].key] = i, j
}

func (d *dues[K]) Push(x any) {
	item := x.(due[K])
	d.at[item.key] = len(d.items)
	d.items = append(d.items, item)
}

func (d *dues[K]) Pop() any {
	last := d.items[len(d.items)-1]
	d.items = d.items[:len(d.items)-1]
	delete(d.at, last.key)
	return last
}
