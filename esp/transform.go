package esp

import "sync"

// transform is the cryptography of one SA. An instance holds scratch space, so
// it serves one goroutine at a time; a pool lends them out.
//
// Both methods take a whole batch, skip every packet that has a Drop, and work
// on Bytes(), the complete datagram from SPI to ICV: an implementation may
// interleave the packets as it likes.
type transform interface {
	// seal expects SPI, sequence number and padded plaintext in place. It writes
	// IV, ciphertext and ICV, with p.Seq as the 64-bit sequence number.
	seal(batch []Packet)
	// open checks the ICV with p.Seq as the 64-bit sequence number, and decrypts
	// in place. A packet that is not authentic gets DropAuth.
	open(batch []Packet)
	// wipe erases what can be erased.
	wipe()
}

// pool lends transforms of one SA to the goroutines that seal or open. It is a
// plain list and no sync.Pool so that closing the SA reaches every instance.
type pool struct {
	spec *spec
	esn  bool

	mu     sync.Mutex // guards the rest
	closed bool
	keys   Keys
	free   []transform
}

// newPool clones the keys and makes the first instance, which also proves that
// the keys work: later ones cannot fail.
func newPool(sp *spec, keys *Keys, esn bool) (*pool, error) {
	p := &pool{spec: sp, esn: esn, keys: keys.clone()}
	t, err := sp.build(&p.keys, esn)
	if err != nil {
		p.keys.Wipe()
		return nil, err
	}
	p.free = append(p.free, t)
	return p, nil
}

// get returns an instance for the caller alone, or nil if the SA is closed.
func (p *pool) get() transform {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	if n := len(p.free); n > 0 {
		t := p.free[n-1]
		p.free[n-1] = nil
		p.free = p.free[:n-1]
		return t
	}
	t, err := p.spec.build(&p.keys, p.esn)
	if err != nil {
		panic("esp: internal error: keys worked once and no longer do: " + err.Error())
	}
	return t
}

// put takes an instance back.
func (p *pool) put(t transform) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		t.wipe()
		return
	}
	p.free = append(p.free, t)
}

// close wipes the keys. Instances on loan are wiped when they come back.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.keys.Wipe()
	for _, t := range p.free {
		t.wipe()
	}
	p.free = nil
}
