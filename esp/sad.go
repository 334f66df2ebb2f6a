package esp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"sync/atomic"
)

// ErrSPIInUse is returned by SAD.Install if the SPI is taken.
var ErrSPIInUse = errors.New("esp: SPI is in use")

const (
	sadShards = 256 // SPIs are random, so a copy on write is 1/256 of the table
	spiTries  = 64  // with 2^31 SPIs taken, this many draws fail once in 2^64
)

// SAD is the security association database of RFC 4301, Section 4.4.2, as far as
// receiving needs it: inbound SAs by SPI. We choose the SPIs of all our inbound
// SAs, so the SPI alone tells them apart, whatever address a datagram comes from.
//
// Reads take no lock: each shard is an immutable map that a writer replaces.
// Nothing a datagram says changes the SAD. The zero value is ready.
type SAD struct {
	// Stats counts datagrams that Find cannot give to an SA.
	Stats Stats

	shards [sadShards]atomic.Pointer[map[uint32]*Inbound]
	mu     sync.Mutex // serialises writers
}

// NewSPI draws an SPI of at least MinSPI that is not in use. It is reserved for
// nobody: should another Install take it first, Install says ErrSPIInUse.
func (d *SAD) NewSPI(rand io.Reader) (uint32, error) {
	var b [4]byte
	for range spiTries {
		if _, err := io.ReadFull(rand, b[:]); err != nil {
			return 0, fmt.Errorf("esp: drawing an SPI: %w", err)
		}
		if spi := binary.BigEndian.Uint32(b[:]); spi >= MinSPI && d.BySPI(spi) == nil {
			return spi, nil
		}
	}
	return 0, errors.New("esp: no unused SPI found")
}

// Install makes sa receive. It takes the SA over; whoever removes it closes it.
func (d *SAD) Install(sa *Inbound) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.BySPI(sa.spi) != nil {
		return ErrSPIInUse
	}
	d.replaceLocked(sa.spi, sa)
	return nil
}

// Remove takes the SA with that SPI out and returns it, for the caller to close;
// nil if there is none.
func (d *SAD) Remove(spi uint32) *Inbound {
	d.mu.Lock()
	defer d.mu.Unlock()
	sa := d.BySPI(spi)
	if sa != nil {
		d.replaceLocked(spi, nil)
	}
	return sa
}

// BySPI returns the SA with that SPI, nil if there is none.
func (d *SAD) BySPI(spi uint32) *Inbound {
	if m := d.shard(spi).Load(); m != nil {
		return (*m)[spi]
	}
	return nil
}

// Find returns the SA that a datagram is for, or counts and returns why there is
// none. It believes nothing: Open checks the datagram.
func (d *SAD) Find(datagram []byte) (*Inbound, Drop) {
	if len(datagram) < headerLen {
		d.Stats.CountDrop(DropTooShort)
		return nil, DropTooShort
	}
	sa := d.BySPI(binary.BigEndian.Uint32(datagram))
	if sa == nil {
		d.Stats.CountDrop(DropUnknownSPI)
		return nil, DropUnknownSPI
	}
	return sa, DropNone
}

// All yields every SA, in no order; Install and Remove may go on meanwhile.
func (d *SAD) All() iter.Seq[*Inbound] {
	return func(yield func(*Inbound) bool) {
		for i := range d.shards {
			m := d.shards[i].Load()
			if m == nil {
				continue
			}
			for _, sa := range *m {
				if !yield(sa) {
					return
				}
			}
		}
	}
}

// replaceLocked publishes a copy of spi's shard with sa in it, or without it if
// sa is nil.
func (d *SAD) replaceLocked(spi uint32, sa *Inbound) {
	shard := d.shard(spi)
	next := make(map[uint32]*Inbound)
	if old := shard.Load(); old != nil {
		for k, v := range *old {
			next[k] = v
		}
	}
	if sa == nil {
		delete(next, spi)
	} else {
		next[spi] = sa
	}
	shard.Store(&next)
}

func (d *SAD) shard(spi uint32) *atomic.Pointer[map[uint32]*Inbound] {
	return &d.shards[spi%sadShards]
}
