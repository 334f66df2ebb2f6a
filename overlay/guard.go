package overlay

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/anacrolix/dht/v2"
	"github.com/anacrolix/dht/v2/bep44"
	"github.com/anacrolix/dht/v2/krpc"
	alog "github.com/anacrolix/log"
	"golang.org/x/time/rate"
)

// The library does what it does well: transactions, resends and the KRPC codec
// of our own queries (Server.Query), and walks (package traversal). Everything a
// peer sends is parsed and checked before, and all the library ever sees is a
// re-encoded answer to a query of its own. So none of these can be reached:
//
//   - put or announce_peer without arguments: a nil dereference in its query
//     handler ends the process;
//   - find_node and get: it looks the neighbours up at info_hash, which they do
//     not have, and not at target;
//   - any other method name: each one becomes an expvar for ever;
//   - bytes that are not bencode: printed to standard error past every logger;
//   - Bootstrap and TableMaintainer: leak a goroutine when there are no starting
//     nodes; a dead node stays in the table of a small network;
//   - StartingNodes: default to public BitTorrent routers.

// newServer starts the library on conn.
func newServer(cfg Config, c *conn) (*dht.Server, error) {
	return dht.NewServer(&dht.ServerConfig{
		NodeId:     krpc.ID(cfg.Self),
		Conn:       c,
		NoSecurity: true, // IDs are hashes of keys, not of addresses (BEP 42)
		OnQuery:    func(*krpc.Msg, net.Addr) bool { return false },
		// Never called; were it, it would answer "nobody".
		StartingNodes:    func() ([]dht.Addr, error) { return nil, nil },
		QueryResendDelay: func() time.Duration { return cfg.Resend },
		// The default is 25 a second for the whole process; ours is per node.
		SendLimiter: rate.NewLimiter(rate.Inf, 1),
		Store:       noStore{},
		Exp:         time.Hour,
		Logger:      libraryLogger(cfg.Logger),
	})
}

// conn is the virtual net.PacketConn under the library: what it writes goes
// through the codec of this package to the Transport, what it reads are answers
// that passed admitAnswer.
type conn struct {
	o      *Overlay
	in     chan datagram
	closed chan struct{}
	once   sync.Once
	parked chan struct{} // taken from a reader that waits for datagrams
	left   chan struct{} // closed when the library reads no more
}

var _ net.PacketConn = (*conn)(nil)

func newConn(o *Overlay) *conn {
	return &conn{
		o:      o,
		in:     make(chan datagram, 16), // the library takes them at once
		closed: make(chan struct{}),
		parked: make(chan struct{}),
		left:   make(chan struct{}),
	}
}

// admitAnswer passes an answer on to the library if its sender was asked for it.
func (o *Overlay) admitAnswer(ctx context.Context, m *message, from netip.AddrPort) Drop {
	t, ok := o.proofs.untag(from, m.t)
	if !ok {
		return DropUnasked
	}
	if m.kind == response {
		o.meet(Node{m.id, from})
	}
	m.t, m.text = t, nil
	select {
	case o.conn.in <- datagram{pkt: m.append(nil), from: from}:
	case <-ctx.Done():
	}
	return DropNone
}

// meet notes that n answered us.
func (o *Overlay) meet(n Node) {
	admitted := n.ID != o.cfg.Self && o.cfg.Admit(n.ID, n.Addr)
	now := o.cfg.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	if n.ID == o.cfg.Self && len(o.ourselves) < maxReplicas {
		// We asked ourselves: the address, a bootstrap address for one, is ours.
		o.ourselves[n.Addr] = true
	}
	if !admitted {
		return
	}
	o.lastHeard = now
	if doubtful := o.table.onAnswer(now, n); doubtful.IsValid() {
		o.verifyLocked(doubtful)
	}
	select {
	case <-o.ready:
	default:
		close(o.ready)
	}
}

// ReadFrom returns the next answer. It fails only after Close, because the
// library panics on any other error. A reader that has been parked gets nothing
// more: the library leaves without reading again if it is closed while it looks
// at a datagram, and then nobody would know that it has left.
func (c *conn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-c.in:
		return copy(b, d.pkt), udpAddr(d.from), nil
	case c.parked <- struct{}{}:
		<-c.closed
		close(c.left)
		return 0, nil, net.ErrClosed
	}
}

// WriteTo sends a query of the library's, tagged and in our encoding.
func (c *conn) WriteTo(b []byte, to net.Addr) (int, error) {
	m, why := parse(b)
	l, ours := to.(label)
	if why != DropNone || m.kind != query || !ours {
		// The library leaves out zero fields: a key of zeros, which no honest item has.
		return 0, fmt.Errorf("overlay: query to send is %v", why)
	}
	addr := unmap(l.AddrPort())
	m.t = c.o.proofs.tag(addr, m.t)
	m.has, m.life = m.has|l.of.has&hasLife, l.of.life
	return len(b), c.o.cfg.Transport.WriteTo(m.append(make([]byte, 0, MaxPayload)), addr)
}

// labelled is an address as the library has it, over which the query that goes
// there reaches conn.WriteTo: the library's arguments have no place for a field of
// our own.
type labelled struct {
	dht.Addr
	of *message
}

// label is the address that the library hands to conn.WriteTo.
type label struct {
	*net.UDPAddr
	of *message
}

// Raw implements dht.Addr.
func (l labelled) Raw() net.Addr { return label{l.Addr.Raw().(*net.UDPAddr), l.of} }

// Close is called by the library, once it will not mind ReadFrom failing.
func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// LocalAddr is for the library's status page, which nobody asks for.
func (c *conn) LocalAddr() net.Addr { return udpAddr(c.o.cfg.Local) }

// Deadlines are not used by the library.
func (c *conn) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (c *conn) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (c *conn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// udpAddr returns a with 16 bytes of IP, the one form in which the library's
// addresses are compared.
func udpAddr(a netip.AddrPort) *net.UDPAddr {
	ip := a.Addr().As16()
	return &net.UDPAddr{IP: ip[:], Port: int(a.Port())}
}

// noStore keeps the library's item store out of use.
type noStore struct{}

var _ bep44.Store = noStore{}

func (noStore) Put(*bep44.Item) error                 { return bep44.ErrItemNotFound }
func (noStore) Get(bep44.Target) (*bep44.Item, error) { return nil, bep44.ErrItemNotFound }
func (noStore) Del(bep44.Target) error                { return nil }

// logHandler turns the library's log into Debug records.
type logHandler struct{ log *slog.Logger }

func (h logHandler) Handle(r alog.Record) {
	h.log.Debug("overlay library", "reason", r.Text())
}

func libraryLogger(log *slog.Logger) alog.Logger {
	var l alog.Logger
	l.SetHandlers(logHandler{log})
	if log.Enabled(context.Background(), slog.LevelDebug) {
		return l.WithFilterLevel(alog.Debug)
	}
	return l.WithFilterLevel(alog.Critical)
}
