package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"syscall"
	"time"
)

const (
	dialTimeout = 2 * time.Second
	lineTimeout = 30 * time.Second // between two lines of an answer
)

// ErrNotRunning is returned when no process serves the socket.
var ErrNotRunning = errors.New("control: no icvpn process serves the socket")

// Client asks the process behind a control socket. Each call is a connection of
// its own, so there is nothing to close.
type Client struct{ path string }

// NewClient returns a client for the socket at path. It does not connect.
func NewClient(path string) *Client { return &Client{path: path} }

// Path returns the path of the socket.
func (c *Client) Path() string { return c.path }

// Status asks for the status of the process.
func (c *Client) Status(ctx context.Context) (Status, error) {
	r, err := c.ask(ctx, request{Method: methodStatus})
	if err == nil && r.Status == nil {
		err = errAnswer
	}
	if err != nil {
		return Status{}, err
	}
	return *r.Status, nil
}

// Peers asks for the other machines of the service.
func (c *Client) Peers(ctx context.Context) (PeerList, error) {
	r, err := c.ask(ctx, request{Method: methodPeers})
	if err == nil && r.Peers == nil {
		err = errAnswer
	}
	if err != nil {
		return PeerList{}, err
	}
	return *r.Peers, nil
}

// Services asks a super peer for the services it serves or knows.
func (c *Client) Services(ctx context.Context) (ServiceList, error) {
	r, err := c.ask(ctx, request{Method: methodServices})
	if err == nil && r.Services == nil {
		err = errAnswer
	}
	if err != nil {
		return ServiceList{}, err
	}
	return *r.Services, nil
}

// JoinSteps asks how the process joined.
func (c *Client) JoinSteps(ctx context.Context) (JoinLog, error) {
	r, err := c.ask(ctx, request{Method: methodJoin})
	if err == nil && r.Join == nil {
		err = errAnswer
	}
	if err != nil {
		return JoinLog{}, err
	}
	return *r.Join, nil
}

// Backup has a super peer write a backup to path, which is absolute and does not
// exist yet.
func (c *Client) Backup(ctx context.Context, path string) (Backup, error) {
	r, err := c.ask(ctx, request{Method: methodBackup, Target: path})
	if err == nil && r.Backup == nil {
		err = errAnswer
	}
	if err != nil {
		return Backup{}, err
	}
	return *r.Backup, nil
}

// Update has a super peer read the update file at path, which is absolute.
func (c *Client) Update(ctx context.Context, path string) (Update, error) {
	r, err := c.ask(ctx, request{Method: methodUpdate, Target: path})
	if err == nil && r.Update == nil {
		err = errAnswer
	}
	if err != nil {
		return Update{}, err
	}
	return *r.Update, nil
}

// Ping sends count echo requests to target (0: until ctx ends) and calls emit
// for each outcome.
func (c *Client) Ping(ctx context.Context, target string, count int, emit func(PingReply) error) error {
	x, err := c.start(ctx, request{Method: methodPing, Target: target, Count: count})
	if err != nil {
		return err
	}
	defer x.close()
	for {
		r, err := x.next()
		switch {
		case err != nil:
			return err
		case r.Done:
			return nil
		case r.Ping == nil:
			return errAnswer
		}
		if err := emit(*r.Ping); err != nil {
			return err
		}
	}
}

// Down asks the process to leave, waits until it has and returns how it went, nil
// if the process does not say.
func (c *Client) Down(ctx context.Context) (*Leave, error) {
	x, err := c.start(ctx, request{Method: methodDown})
	if err != nil {
		return nil, err
	}
	defer x.close()
	r, err := x.next()
	switch {
	case errors.Is(err, errEnded):
		return nil, nil // it was gone before it could say so
	case err != nil:
		return nil, err
	case !r.Done:
		return nil, errAnswer
	}
	return x.awaitEnd()
}

var (
	// errAnswer is an answer to another question: a server that is not ours.
	errAnswer = errors.New("control: unexpected answer")
	errEnded  = errors.New("control: the icvpn process ended before it answered")
)

func (c *Client) ask(ctx context.Context, req request) (response, error) {
	x, err := c.start(ctx, req)
	if err != nil {
		return response{}, err
	}
	defer x.close()
	return x.next()
}

// exchange is one connection: a request that was sent, answers to read.
type exchange struct {
	ctx   context.Context
	conn  net.Conn
	lines *bufio.Scanner
	stop  func() bool
}

func (c *Client) start(ctx context.Context, req request) (*exchange, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, "unix", c.path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, ErrNotRunning
	case errors.Is(err, fs.ErrPermission):
		return nil, &Error{CodeForbidden, fmt.Sprintf("%s belongs to another user; ask as that user or as root", c.path)}
	case err != nil:
		return nil, fmt.Errorf("control: %w", err)
	}
	x := &exchange{ctx: ctx, conn: conn, lines: bufio.NewScanner(conn)}
	x.lines.Buffer(nil, maxResponse)
	x.stop = context.AfterFunc(ctx, func() { conn.Close() })
	req.Version = Version
	line, err := json.Marshal(req)
	if err == nil {
		_ = conn.SetWriteDeadline(time.Now().Add(dialTimeout))
		_, err = conn.Write(append(line, '\n'))
	}
	if err != nil && !errors.Is(err, syscall.EPIPE) { // after a refusal there is still an answer to read
		x.close()
		return nil, x.explain(err)
	}
	return x, nil
}

func (x *exchange) close() {
	x.stop()
	x.conn.Close()
}

func (x *exchange) next() (response, error) {
	_ = x.conn.SetReadDeadline(time.Now().Add(lineTimeout))
	if !x.lines.Scan() {
		err := x.lines.Err()
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return response{}, x.explain(err)
	}
	return parseResponse(x.lines.Bytes())
}

// awaitEnd reads until the server closes the connection. On the way it may say
// how the leave went.
func (x *exchange) awaitEnd() (left *Leave, err error) {
	_ = x.conn.SetReadDeadline(time.Time{})
	for x.lines.Scan() {
		if r, err := parseResponse(x.lines.Bytes()); err == nil && r.Left != nil {
			left = r.Left
		}
	}
	// A process that was killed resets the connection: gone is gone.
	if err := x.ctx.Err(); err != nil {
		return nil, x.explain(err)
	}
	return left, nil
}

// explain prefers the reason why ctx ended over its symptom on the connection.
func (x *exchange) explain(err error) error {
	switch {
	case x.ctx.Err() != nil:
		return context.Cause(x.ctx)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return errEnded
	}
	return fmt.Errorf("control: %w", err)
}
