package esp

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// ErrConfig is returned for a Config that makes no SA; the text names the field.
var ErrConfig = errors.New("esp: bad configuration")

// Config describes one SA, one direction.
type Config struct {
	// SPI, chosen by the receiver, at least MinSPI. Required.
	SPI uint32
	// Suite, default AES128CBCSHA256.
	Suite Suite
	// Keys of this direction. NewOutbound and NewInbound borrow them: wipe yours
	// afterwards. Required.
	Keys Keys
	// NoESN turns 64-bit sequence numbers off (RFC 4303, Section 2.2.1); only
	// for peers that cannot do them. Default false.
	NoESN bool
	// Window is the replay window of an inbound SA in packets: a power of two
	// from 64 to 2^20, default DefaultWindow.
	Window int
	// LastSeq is the last sequence number already used (outbound) or seen
	// (inbound) under these keys: not 0 only for keys that outlive the process.
	LastSeq uint64
	// Born is when the keys came to be; the age limit counts from it. Required.
	Born time.Time
	// Limits are the hard limits, zero fields meaning defaults. Both ends enforce
	// them; a soft limit of 75 to 85 % is drawn once per SA.
	Limits Limits
	// Stats counts packets and drops; shared by as many SAs as the caller likes.
	// Default: one of the SA's own.
	Stats *Stats
	// Rand draws the soft limit, default crypto/rand.
	Rand io.Reader
	// Owner is handed back by Inbound.Owner and means nothing here: the
	// conductor's way from a datagram's SA to its tunnel. Default nil.
	Owner any
}

func (c Config) withDefaults() Config {
	if c.Suite == 0 {
		c.Suite = DefaultSuite
	}
	if c.Window == 0 {
		c.Window = DefaultWindow
	}
	if c.Stats == nil {
		c.Stats = new(Stats)
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	c.Limits = c.Limits.withDefaults(!c.NoESN)
	return c
}

func (c *Config) validate() error {
	switch {
	case c.SPI < MinSPI:
		return fmt.Errorf("%w: SPI %d is reserved, want %d or more", ErrConfig, c.SPI, MinSPI)
	case !c.Suite.Valid():
		return fmt.Errorf("%w: Suite: %w %d", ErrConfig, ErrSuite, uint8(c.Suite))
	case c.Window < minWindow || c.Window > maxWindow || c.Window&(c.Window-1) != 0:
		return fmt.Errorf("%w: Window %d is no power of two from %d to %d", ErrConfig, c.Window, minWindow, maxWindow)
	case c.NoESN && c.LastSeq > maxSeq32:
		return fmt.Errorf("%w: LastSeq %d needs ESN", ErrConfig, c.LastSeq)
	case c.Born.IsZero():
		return fmt.Errorf("%w: Born is not set", ErrConfig)
	case c.Limits.Age < 0:
		return fmt.Errorf("%w: Limits.Age is negative", ErrConfig)
	}
	if err := c.Keys.check(c.Suite.KeySizes()); err != nil {
		return fmt.Errorf("%w: Keys: %w", ErrConfig, err)
	}
	return nil
}

// sa is what both directions share. All of it is set at start.
type sa struct {
	spi   uint32
	suite Suite
	spec  *spec
	esn   bool
	pool  *pool
	stats *Stats
	life  lifetime
	owner any
}

// init fills s from a Config that withDefaults has completed.
func (s *sa) init(c *Config) error {
	if err := c.validate(); err != nil {
		return err
	}
	share, err := drawShare(c.Rand)
	if err != nil {
		return err
	}
	s.spi, s.suite, s.spec, s.esn, s.stats = c.SPI, c.Suite, &specs[c.Suite], !c.NoESN, c.Stats
	s.owner = c.Owner
	s.life.born, s.life.hard, s.life.soft = c.Born, c.Limits, c.Limits.soft(share)
	if s.pool, err = newPool(s.spec, &c.Keys, s.esn); err != nil {
		return fmt.Errorf("%w: Keys: %w", ErrConfig, err)
	}
	return nil
}

// SPI returns the SA's index.
func (s *sa) SPI() uint32 { return s.spi }

// Owner returns Config.Owner.
func (s *sa) Owner() any { return s.owner }

// Suite returns the SA's algorithms.
func (s *sa) Suite() Suite { return s.suite }

// Stats returns where the SA counts.
func (s *sa) Stats() *Stats { return s.stats }

// CipherBytes returns how many bytes the limit on bytes has counted.
func (s *sa) CipherBytes() uint64 { return s.life.bytes.Load() }

// Deadlines returns when age alone makes the SA want a successor and ends it:
// what a timer is set to. Traffic may get there first.
func (s *sa) Deadlines() (soft, hard time.Time) { return s.life.deadlines() }

// Close ends the SA and wipes its keys. A batch under way on another goroutine
// still has the use of them; later ones are dropped as expired. Close may be
// called more than once.
func (s *sa) Close() {
	s.life.expired.Store(true)
	s.pool.close()
}

// LogValue names the SA without its secrets.
func (s *sa) LogValue() slog.Value {
	return slog.GroupValue(slog.String("spi", fmt.Sprintf("%08x", s.spi)), slog.String("suite", s.suite.String()))
}

// String names the SA without its secrets.
func (s *sa) String() string { return fmt.Sprintf("%08x/%s", s.spi, s.suite) }

// refuse drops what has no verdict yet, because the SA has ended.
func (s *sa) refuse(batch []Packet) {
	for i := range batch {
		if batch[i].Drop == DropNone {
			s.drop(&batch[i], DropExpired)
		}
	}
}

func (s *sa) drop(p *Packet, d Drop) {
	p.Drop = d
	s.stats.CountDrop(d)
}
