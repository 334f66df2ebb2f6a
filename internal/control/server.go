package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	maxConns       = 32                     // connections served at a time
	requestTimeout = 5 * time.Second        // for a request to arrive
	writeTimeout   = 5 * time.Second        // for the client to take one line
	answerTimeout  = 5 * time.Second        // for a Handler, ping excepted
	acceptRetry    = 100 * time.Millisecond // after an accept that failed for lack of descriptors
)

// Handler is what the socket controls. Every method may be called from several
// goroutines at once and returns soon after its context ends.
type Handler interface {
	Status(ctx context.Context) (Status, error)
	Peers(ctx context.Context) ([]Peer, error)
	JoinSteps(ctx context.Context) ([]JoinStep, error)
	// Ping sends count echo requests (0: until ctx ends) to the peer with this
	// name or overlay address and calls emit for each outcome, from its own
	// goroutine. It returns emit's error if there is one. A peer that the policy
	// forbids is an *Error with CodeNotAllowed.
	Ping(ctx context.Context, target string, count int, emit func(PingReply) error) error
	// Down starts a clean leave and returns. Serve should run until the leave
	// is over: that is what the client waits for.
	Down(ctx context.Context) error
}

// Leaver is a Handler that can say how a leave went.
type Leaver interface {
	// Left waits until the leave is over, which must be before the context of
	// Serve ends, and says how it went; nil if there is nothing to say, or ctx has
	// ended, because nobody listens any more.
	Left(ctx context.Context) *Leave
}

// Backuper is a Handler that can write a backup of its state.
type Backuper interface {
	// Backup writes to path, which must not exist yet.
	Backup(ctx context.Context, path string) (Backup, error)
}

// Updater is a Handler that takes what a service's owner has signed.
type Updater interface {
	// Update reads the update file at path.
	Update(ctx context.Context, path string) (Update, error)
}

// Services is a Handler that knows services: a super peer.
type Services interface {
	Services(ctx context.Context) ([]Service, error)
}

// Serve answers requests on l until ctx ends, then closes l and every
// connection, waits for its goroutines and returns nil.
func Serve(ctx context.Context, l *Listener, h Handler, log *slog.Logger) error {
	s := &server{handler: h, log: log, conns: map[*net.UnixConn]bool{}}
	stop := context.AfterFunc(ctx, func() { s.closeAll(l) })
	defer stop()
	s.acceptLoop(ctx, l)
	s.closeAll(l)
	s.running.Wait()
	return nil
}

type server struct {
	// set at start
	handler Handler
	log     *slog.Logger

	running sync.WaitGroup

	// guarded by mu
	mu     sync.Mutex
	closed bool
	conns  map[*net.UnixConn]bool // true: told of the leave, closes itself
}

// acceptLoop ends when the listener is closed.
func (s *server) acceptLoop(ctx context.Context, l *Listener) {
	for {
		conn, err := l.unix.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // out of descriptors: the node goes on, and so do we
			s.log.Warn("control socket cannot accept", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(acceptRetry):
			}
			continue
		}
		s.start(ctx, conn)
	}
}

// start takes conn.
func (s *server) start(ctx context.Context, conn *net.UnixConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		conn.Close()
	case len(s.conns) >= maxConns:
		// One line into an empty socket buffer does not block.
		_ = (&stream{conn: conn}).send(response{Error: &Error{CodeBusy, "too many commands at a time; try again"}})
		conn.Close()
	default:
		s.conns[conn] = false
		s.running.Go(func() { s.connLoop(ctx, conn) })
	}
}

func (s *server) closeAll(l *Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		l.Close()
	}
	for conn, farewell := range s.conns {
		if !farewell {
			conn.Close()
		}
	}
}

// connLoop serves the one request of conn.
func (s *server) connLoop(ctx context.Context, conn *net.UnixConn) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, conn)
		conn.Close()
	}()
	out := &stream{conn: conn}
	if err := checkPeer(conn); err != nil {
		s.log.Warn("control client refused", "reason", err.Message)
		_ = out.send(response{Error: err})
		return
	}
	req, err := readRequest(conn)
	leaver, says := s.handler.(Leaver)
	says = says && err == nil && req.Method == methodDown
	if says {
		s.expectFarewell(conn) // before the leave can end
	}
	if err == nil {
		err = s.answer(ctx, req, out)
		if err != nil && ctx.Err() != nil {
			err = &Error{CodeNotReady, "the icvpn process is ending"} // whatever the handler made of it
		}
	}
	if err != nil {
		_ = out.send(response{Error: err}) // nobody to tell if it is gone
		return
	}
	switch {
	case says:
		s.farewell(ctx, conn, leaver, out)
	case req.Method == methodDown:
		s.awaitEnd(conn)
	}
}

// expectFarewell has closeAll leave conn to its connLoop, which still has to say
// how the leave went when everything else ends.
func (s *server) expectFarewell(conn *net.UnixConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[conn] = true
}

// farewell says how the leave went. The end of the connection says that
// everything has ended.
func (s *server) farewell(ctx context.Context, conn *net.UnixConn, leaver Leaver, out *stream) {
	heard, gone := context.WithCancel(context.WithoutCancel(ctx))
	s.running.Go(func() { s.awaitEnd(conn); gone() })
	if l := leaver.Left(heard); l != nil {
		_ = out.send(response{Left: l})
	}
	select {
	case <-ctx.Done():
	case <-heard.Done():
	}
}

// readRequest reads the request line. Nothing may follow it.
func readRequest(conn net.Conn) (request, *Error) {
	_ = conn.SetReadDeadline(time.Now().Add(requestTimeout))
	r := bufio.NewReaderSize(conn, maxRequest)
	line, err := r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return request{}, badRequest("more than %d bytes", maxRequest)
	case err != nil:
		return request{}, badRequest("no line within %v", requestTimeout)
	case r.Buffered() > 0:
		return request{}, badRequest("more than one line")
	}
	return parseRequest(line)
}

// answer asks the handler and sends what it says.
func (s *server) answer(ctx context.Context, req request, out *stream) *Error {
	if req.Method == methodPing {
		return s.ping(ctx, req, out)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var resp response
	var err error
	switch req.Method {
	case methodStatus:
		var status Status
		status, err = s.handler.Status(ctx)
		resp.Status = status.complete()
	case methodPeers:
		var peers []Peer
		peers, err = s.handler.Peers(ctx)
		resp.Peers = completePeers(peers)
	case methodJoin:
		var steps []JoinStep
		steps, err = s.handler.JoinSteps(ctx)
		resp.Join = &JoinLog{Version: Version, Steps: append([]JoinStep{}, steps...)}
	case methodBackup:
		resp.Backup, err = s.backup(ctx, req.Target)
	case methodUpdate:
		h, ok := s.handler.(Updater)
		if !ok {
			return &Error{CodeNotAllowed, "this process is a peer, which hears of updates from the super peers; hand the file to one of them, on its machine"}
		}
		var u Update
		u, err = h.Update(ctx, req.Target)
		u.Documents = append([]UpdatedDocument{}, u.Documents...)
		resp.Update = &u
	case methodServices:
		h, ok := s.handler.(Services)
		if !ok {
			return &Error{CodeNotAllowed, "this process is a peer; services are listed by a super peer: ask on its machine, or name its configuration with --config"}
		}
		var all []Service
		all, err = h.Services(ctx)
		resp.Services = completeServices(all)
	case methodDown:
		err = s.handler.Down(ctx)
		resp.Done = true
	}
	if err != nil {
		return asError(err)
	}
	_ = out.send(resp)
	return nil
}

func (s *server) backup(ctx context.Context, path string) (*Backup, error) {
	b, ok := s.handler.(Backuper)
	if !ok {
		return nil, &Error{CodeNotAllowed, "this process is no super peer: there is nothing to back up"}
	}
	done, err := b.Backup(ctx, path)
	return &done, err
}

func (s *server) ping(ctx context.Context, req request, out *stream) *Error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err := s.handler.Ping(ctx, req.Target, req.Count, func(reply PingReply) error {
		err := out.send(response{Ping: &reply})
		if err != nil {
			cancel() // the client is gone: also a handler that ignores the error ends
		}
		return err
	})
	if err != nil {
		return asError(err)
	}
	_ = out.send(response{Done: true})
	return nil
}

// awaitEnd keeps the connection of a leave open until the client closes it or
// the server ends: its end is how the client learns that the leave is over.
func (s *server) awaitEnd(conn net.Conn) {
	_ = conn.SetReadDeadline(time.Time{})
	var b [1]byte
	_, _ = conn.Read(b[:])
}

// stream writes answer lines.
type stream struct{ conn net.Conn }

func (o *stream) send(r response) error {
	r.Version = Version
	line, err := json.Marshal(r)
	if err != nil {
		// Only a handler's NaN or infinity gets here.
		line, _ = json.Marshal(response{Version: Version, Error: asError(err)})
	}
	if err := o.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err = o.conn.Write(append(line, '\n'))
	return err
}

func asError(err error) *Error {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e
	}
	return &Error{CodeFailed, err.Error()}
}

// complete turns absent lists into empty ones, so that scripts need not tell
// null from [].
func (s Status) complete() *Status {
	s.Version = Version
	s.Labels = orEmpty(s.Labels)
	s.Listen = append([]string{}, s.Listen...)
	s.Endpoints = append([]string{}, s.Endpoints...)
	s.Warnings = append([]string{}, s.Warnings...)
	return &s
}

func completePeers(peers []Peer) *PeerList {
	list := &PeerList{Version: Version, Peers: append([]Peer{}, peers...)}
	for i := range list.Peers {
		list.Peers[i].Labels = orEmpty(list.Peers[i].Labels)
	}
	return list
}

func completeServices(all []Service) *ServiceList {
	list := &ServiceList{Version: Version, Services: append([]Service{}, all...)}
	for i := range list.Services {
		s := &list.Services[i]
		s.SuperPeers, s.Owners, s.Rules = append([]ServiceSuperPeer{}, s.SuperPeers...), append([]string{}, s.Owners...), append([]string{}, s.Rules...)
		for j := range s.SuperPeers {
			sp := &s.SuperPeers[j]
			sp.Endpoints, sp.Roles, sp.Labels = append([]string{}, sp.Endpoints...), append([]string{}, sp.Roles...), orEmpty(sp.Labels)
		}
	}
	return list
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
