package overlay

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
)

// GetObject finds the object under key and salt, for a reader that has the one with
// sequence number after, -1 for none. Of that one it returns the root and
// ErrUnchanged, and asks for no chunk; of an older one, or its withdrawal, nothing
// and ErrRollback. Copies of an older one do not end the search, so it takes one
// honest node that has the newer. It is ErrObject if the root is not one, names
// more than Config.MaxObject bytes, or chunks are missing.
func (m *Machine) GetObject(key ed25519.PublicKey, salt []byte, after int64, done func(data []byte, root Item, err error)) *Call {
	f := &fetching{m: m}
	c := m.begin(func(cause error) { f.cancel(cause) })
	if c == nil {
		done(nil, Item{}, ErrNotRunning)
		return nil
	}
	f.done = func(data []byte, err error) {
		m.end(c)
		done(data, f.root, err)
	}
	f.call = m.getItem(key, salt, after, func(it Item, _ int, err error) {
		f.rooted, f.root = true, it
		switch {
		case it.Key != nil && it.Seq < after:
			f.root = Item{}
			err = fmt.Errorf("%w: sequence number %d after %d", ErrRollback, it.Seq, after)
		case err != nil:
		case it.Seq == after:
			err = ErrUnchanged
		case f.cause != nil: // who found the root in time has no time for the rest
			err = f.broken()
		default:
			f.begin()
			return
		}
		f.finish(nil, err)
	})
	return c
}

// fetching reads an object: the names of one level after the other, and last the
// data. A replica has every chunk, so one is asked for each, directly, and then
// another; what none has is looked for by a walk. One that is silent gives way to
// the next.
//
//	root ──> [indexes] ──> [indexes] ──> data chunks
//	each chunk: own store ──> replica ──not there, silent──> the next ──> walk
type fetching struct {
	m        *Machine
	call     *Call // of the root
	rooted   bool  // its end
	cause    error // why it was made to end
	root     Item
	claims   root
	levels   []int // bytes on this level and those below
	replicas []netip.AddrPort

	names  []byte
	parts  [][]byte
	next   int // name to ask for next
	active int // chunks under way
	ends   map[int]func()
	over   bool
	done   func([]byte, error)
}

func (f *fetching) begin() {
	var err error
	if f.claims, err = parseRoot(f.root.Value, f.m.cfg.MaxObject); err != nil {
		f.finish(nil, err)
		return
	}
	f.replicas = f.m.replicasAtRandom()
	f.levels = f.claims.levels()
	f.ends = make(map[int]func())
	f.descend(f.claims.Names)
}

// descend fetches what names name. Nothing is allocated but by the number of names
// that are there.
func (f *fetching) descend(names []byte) {
	f.names, f.next = names, 0
	f.parts = make([][]byte, len(names)/sha256.Size)
	f.proceed()
}

func (f *fetching) proceed() {
	for !f.over && f.active < objectWorkers && f.next < len(f.parts) {
		f.active++
		f.next++
		f.fetch(f.next - 1)
	}
	if !f.over && f.active == 0 {
		f.ascend()
	}
}

func (f *fetching) name(i int) [sha256.Size]byte { return [sha256.Size]byte(f.names[i*sha256.Size:]) }

// fetch gets the i-th chunk of the level.
func (f *fetching) fetch(i int) {
	s := f.m.chunkSearch(f.name(i))
	if it, ok := f.m.store.get(f.m.now, s.target); ok && it.Key == nil {
		f.take(i, it.Value)
		return
	}
	f.askFor(i, s, slices.Clone(f.replicas[:min(chunkReplicas, len(f.replicas))]))
}

// askFor asks one of replicas for the i-th chunk, and the next when that one is
// silent or has it not: one question each, where a walk takes dozens, and that when
// nodes are busiest.
func (f *fetching) askFor(i int, s *search, replicas []netip.AddrPort) {
	if len(replicas) == 0 {
		f.search(i, s)
		return
	}
	replica := replicas[0]
	q := f.m.ask(replica, message{q: get, target: s.target}, queryTries, func(r reply, err error) {
		if err != nil && len(f.replicas) > 1 && f.replicas[0] == replica {
			f.replicas = append(f.replicas[1:], replica) // the next one for the chunks to come
		}
		if err == nil && r.msg.all(hasValue) {
			if it, ok := s.accept(r.msg); ok {
				f.take(i, bytes.Clone(it.Value))
				f.proceed()
				return
			}
			f.m.stats.Contradicted.Add(1)
		}
		f.askFor(i, s, replicas[1:])
	})
	f.ends[i] = func() { f.m.forget(q) }
}

// search looks for the i-th chunk by a walk.
func (f *fetching) search(i int, s *search) {
	f.ends[i] = s.abandon
	s.run(nil, func() {
		if !s.found {
			f.finish(nil, fmt.Errorf("%w: chunk %d: %w", ErrObject, i, s.absence()))
			return
		}
		f.take(i, s.best.Value)
		f.proceed()
	})
}

// take takes the i-th chunk; its hash was checked.
func (f *fetching) take(i int, value []byte) {
	f.active--
	delete(f.ends, i)
	size, total := MaxValue, f.levels[0]
	if len(f.levels) > 1 {
		size = fanOut * sha256.Size
	}
	if want := min(size, total-i*size); len(value) != want {
		f.finish(nil, fmt.Errorf("%w: chunk %d has %d bytes", ErrObject, i, len(value)))
		return
	}
	f.parts[i] = value
}

// ascend is called when the level is complete.
func (f *fetching) ascend() {
	whole := bytes.Join(f.parts, nil)
	if f.levels = f.levels[1:]; len(f.levels) > 0 {
		f.descend(whole)
		return
	}
	if sum := sha256.Sum256(whole); !bytes.Equal(sum[:], f.claims.Sum) {
		f.finish(nil, fmt.Errorf("%w: wrong sum", ErrObject))
		return
	}
	f.finish(whole, nil)
}

func (f *fetching) cancel(cause error) {
	f.cause = cause
	if !f.rooted {
		f.m.Cancel(f.m.now, f.call, cause)
		return
	}
	f.finish(nil, f.broken())
}

// broken is the error of an object of which only a part was read.
func (f *fetching) broken() error {
	if f.cause == ErrNotRunning { //nolint:errorlint // it is ours
		return fmt.Errorf("%w: %w", ErrObject, f.cause)
	}
	return fmt.Errorf("%w: %w: %w", ErrObject, ErrUnreachable, f.cause)
}

func (f *fetching) finish(data []byte, err error) {
	if f.over {
		return
	}
	f.over = true
	for _, end := range f.ends {
		end()
	}
	f.done(data, err)
}
