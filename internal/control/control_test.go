package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "rewrite testdata")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a Handler whose methods tests replace one by one.
type fake struct {
	status func(context.Context) (Status, error)
	peers  func(context.Context) ([]Peer, error)
	steps  func(context.Context) ([]JoinStep, error)
	ping   func(context.Context, string, int, func(PingReply) error) error
	down   func(context.Context) error
}

var _ Handler = (*fake)(nil)

func (f *fake) Status(ctx context.Context) (Status, error)        { return f.status(ctx) }
func (f *fake) Peers(ctx context.Context) ([]Peer, error)         { return f.peers(ctx) }
func (f *fake) JoinSteps(ctx context.Context) ([]JoinStep, error) { return f.steps(ctx) }
func (f *fake) Down(ctx context.Context) error                    { return f.down(ctx) }
func (f *fake) Ping(ctx context.Context, target string, count int, emit func(PingReply) error) error {
	return f.ping(ctx, target, count, emit)
}

// serve starts a server and returns its socket and how to stop it; the test's
// end stops it too and waits until Serve has returned.
func serve(t testing.TB, h Handler) (path string, stop func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "c.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := Serve(ctx, l, h, slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return path, stop
}

var (
	t0       = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	someIPv4 = netip.MustParseAddr("10.42.0.2")
	someIPv6 = netip.MustParseAddr("fd42::2")
)

func someStatus() Status {
	return Status{
		Role: RolePeer, State: StateUp, Since: t0, Started: t0.Add(-time.Second), Software: "1.0.0", Process: 7,
		Name: "web-1", PID: strings.Repeat("ab", 20), Service: strings.Repeat("cd", 20), ServiceName: "shop",
		Labels: map[string]string{"tier": "web"}, Address4: someIPv4, Address6: someIPv6, Interface: "icvpn0", MTU: 1400,
		Listen: []string{"0.0.0.0:4500"}, Endpoints: []string{"198.51.100.4:4500"}, SuperPeer: "192.0.2.1:4500", Epoch: 3,
		CredentialExpires: t0.Add(24 * time.Hour), PeersKnown: 2, PeersUp: 1,
		RxPackets: 1, RxBytes: 84, TxPackets: 2, TxBytes: 168, Warnings: []string{"clock is 3 s off"},
		Release: &Release{
			Channel: "stable", Version: "1.2.0", Minimum: "0.9.0", Sequence: 5, Signed: t0, Expires: t0.Add(720 * time.Hour), Notes: "https://example.org/1.2.0",
			Artefacts: []Artefact{{OS: "linux", Arch: "amd64", Size: 16777216, SHA256: strings.Repeat("07", 32)}}, Note: "this process runs 1.0.0, and 1.2.0 is out",
		},
	}
}

func somePeers() []Peer {
	return []Peer{
		{
			Name: "app-1", PID: strings.Repeat("01", 20), Address4: someIPv4, Address6: someIPv6,
			Labels: map[string]string{"tier": "app"}, Allowed: true, Reachable: "yes, web may reach app",
			State: TunnelUp, Route: RouteDirect, Path: "198.51.100.4:4500", Suite: "aes128-cbc-sha256", Group: "x25519-mlkem768",
			RxPackets: 1, RxBytes: 84, TxPackets: 2, TxBytes: 168, LastHandshake: t0,
		},
		{Name: "db-1", PID: strings.Repeat("02", 20), Reachable: "no, no rule lets web reach db", State: TunnelNone},
	}
}

func TestStatusCrossesUnchanged(t *testing.T) {
	path, _ := serve(t, &fake{status: func(context.Context) (Status, error) { return someStatus(), nil }})
	got, err := NewClient(path).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := someStatus()
	want.Version = Version
	wantJSON(t, got, want)
}

func TestAbsentListsCrossAsEmptyOnes(t *testing.T) {
	path, _ := serve(t, &fake{
		status: func(context.Context) (Status, error) { return Status{}, nil },
		peers:  func(context.Context) ([]Peer, error) { return nil, nil },
		steps:  func(context.Context) ([]JoinStep, error) { return nil, nil },
	})
	c := NewClient(path)
	status, err1 := c.Status(t.Context())
	peers, err2 := c.Peers(t.Context())
	steps, err3 := c.JoinSteps(t.Context())
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	if status.Labels == nil || status.Listen == nil || status.Endpoints == nil || status.Warnings == nil {
		t.Errorf("status has null: %+v", status)
	}
	if peers.Peers == nil || steps.Steps == nil {
		t.Errorf("null lists: %+v, %+v", peers, steps)
	}
}

func TestPingStreams(t *testing.T) {
	path, _ := serve(t, &fake{ping: func(_ context.Context, target string, count int, emit func(PingReply) error) error {
		for i := range count {
			if err := emit(PingReply{Seq: i + 1, From: target, Address: someIPv4, RTTMS: 1.25}); err != nil {
				return err
			}
		}
		return nil
	}})
	var got []PingReply
	err := NewClient(path).Ping(t.Context(), "app-1", 3, func(r PingReply) error { got = append(got, r); return nil })
	if err != nil || len(got) != 3 || got[2].Seq != 3 || got[2].From != "app-1" || got[2].RTTMS != 1.25 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestPingEndsWithItsClient(t *testing.T) {
	ended := make(chan error, 1)
	path, _ := serve(t, &fake{ping: func(ctx context.Context, _ string, _ int, emit func(PingReply) error) error {
		for ctx.Err() == nil {
			_ = emit(PingReply{}) // ignoring the error is the handler's mistake
		}
		ended <- ctx.Err()
		return ctx.Err()
	}})
	stop := errors.New("enough")
	err := NewClient(path).Ping(t.Context(), "app-1", 0, func(PingReply) error { return stop })
	if !errors.Is(err, stop) {
		t.Errorf("got %v, want the error of emit", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("handler's context: %v", err)
	}
}

func TestErrorsKeepTheirCode(t *testing.T) {
	path, _ := serve(t, &fake{
		status: func(context.Context) (Status, error) { return Status{}, errors.New("node: no luck") },
		ping: func(context.Context, string, int, func(PingReply) error) error {
			return &Error{CodeNotAllowed, "no rule lets web reach db"}
		},
	})
	c := NewClient(path)
	_, err := c.Status(t.Context())
	wantCode(t, err, CodeFailed, "node: no luck")
	err = c.Ping(t.Context(), "db-1", 1, nil)
	wantCode(t, err, CodeNotAllowed, "no rule lets web reach db")
}

func TestAnAnswerThatIsNotJSONIsAnError(t *testing.T) {
	path, _ := serve(t, &fake{steps: func(context.Context) ([]JoinStep, error) {
		return []JoinStep{{DurationMS: math.NaN()}}, nil
	}})
	_, err := NewClient(path).JoinSteps(t.Context())
	wantCode(t, err, CodeFailed, "json: unsupported value: NaN")
}

func TestDownReturnsWhenTheServerEnds(t *testing.T) {
	leaving := make(chan struct{})
	path, stop := serve(t, &fake{down: func(context.Context) error { close(leaving); return nil }})
	done := make(chan error, 1)
	go func() { _, err := NewClient(path).Down(context.Background()); done <- err }()
	<-leaving
	select {
	case err := <-done:
		t.Fatalf("Down returned before the end: %v", err)
	default:
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestDownOfAServerThatIsGoneFirst(t *testing.T) {
	var stop func()
	path, stop := serve(t, &fake{down: func(ctx context.Context) error {
		go stop()
		<-ctx.Done()
		return nil
	}})
	if _, err := NewClient(path).Down(t.Context()); err != nil {
		t.Error(err)
	}
}

// leaver is a Handler that says how its leave went, once it is over.
type leaver struct {
	*fake
	over chan struct{}
	left *Leave
}

func (l *leaver) Left(ctx context.Context) *Leave {
	select {
	case <-l.over:
		return l.left
	case <-ctx.Done():
		return nil
	}
}

func TestDownSaysHowTheLeaveWent(t *testing.T) {
	want := Leave{PeersTold: 2, Published: true, ContactEnds: t0, Error: "nobody answered"}
	for _, left := range []*Leave{&want, nil} {
		l := &leaver{&fake{}, make(chan struct{}), left}
		path, stop := serve(t, l)
		// The leave is over and the server ends at the same moment, as in a process.
		l.down = func(context.Context) error { close(l.over); go stop(); return nil }
		got, err := NewClient(path).Down(t.Context())
		if err != nil || (got == nil) != (left == nil) || got != nil && *got != want {
			t.Errorf("got %+v, %v, want %+v", got, err, left)
		}
	}
}

func TestDownFreesItsConnectionWhenTheClientGoes(t *testing.T) {
	l := &leaver{&fake{down: func(context.Context) error { return nil }}, make(chan struct{}), nil}
	path, _ := serve(t, l)
	l.status = func(context.Context) (Status, error) { return Status{}, nil }
	for range 2 * maxConns {
		ctx, cancel := context.WithCancel(t.Context())
		x, err := NewClient(path).start(ctx, request{Method: methodDown})
		if err != nil {
			t.Fatal(err)
		}
		if r, err := x.next(); err != nil && !isBusy(err) || err == nil && !r.Done {
			t.Fatalf("%+v, %v", r, err)
		}
		x.close()
		cancel()
		for { // until the server has seen it
			if _, err := NewClient(path).Status(t.Context()); !isBusy(err) {
				break
			}
		}
	}
	close(l.over)
}

func isBusy(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == CodeBusy
}

func TestClientObeysItsContext(t *testing.T) {
	asked := make(chan struct{})
	path, _ := serve(t, &fake{status: func(ctx context.Context) (Status, error) {
		close(asked)
		<-ctx.Done()
		return Status{}, ctx.Err()
	}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if _, err := NewClient(path).Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestServeEndsRunningRequests(t *testing.T) {
	asked := make(chan struct{})
	path, stop := serve(t, &fake{status: func(ctx context.Context) (Status, error) {
		close(asked)
		<-ctx.Done()
		return Status{}, ctx.Err()
	}})
	stopped := make(chan struct{})
	go func() { <-asked; stop(); close(stopped) }()
	var e *Error // or the connection is closed before it can be sent
	if _, err := NewClient(path).Status(t.Context()); !errors.Is(err, errEnded) && (!errors.As(err, &e) || e.Code != CodeNotReady) {
		t.Errorf("got %v", err)
	}
	<-stopped
	if _, err := NewClient(path).Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("after the end: %v", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestOneClientTooManyIsTold(t *testing.T) {
	path, _ := serve(t, &fake{status: func(context.Context) (Status, error) { return Status{}, nil }})
	var idle []net.Conn
	defer func() {
		for _, c := range idle {
			c.Close()
		}
	}()
	for range maxConns {
		idle = append(idle, dial(t, path))
	}
	_, err := NewClient(path).Status(t.Context())
	wantCode(t, err, CodeBusy, "too many commands at a time; try again")
}

func TestBadRequests(t *testing.T) {
	path, _ := serve(t, &fake{})
	long := `{"version":1,"method":"ping","target":"` + strings.Repeat("a", maxRequest) + `"}`
	for _, tt := range []struct{ line, want string }{
		{"", "bad request: not a JSON object with a version"},
		{"null", "this process speaks version 1 of the control protocol, the request version 0; use the same icvpn binary for both"},
		{`{"version":2,"method":"new","more":1}`, "this process speaks version 1 of the control protocol, the request version 2; use the same icvpn binary for both"},
		{`{"version":"1"}`, "bad request: not a JSON object with a version"},
		{`[1]`, "bad request: not a JSON object with a version"},
		{`{"version":1,"method":"status"} x`, "bad request: not a JSON object with a version"},
		{`{"version":1,"method":"status","x":1}`, "bad request: a field is unknown or of a wrong type"},
		{`{"version":1,"method":7}`, "bad request: a field is unknown or of a wrong type"},
		{`{"version":1}`, "bad request: unknown method"},
		{`{"version":1,"method":"Status"}`, "bad request: unknown method"},
		{`{"version":1,"method":"status","target":"a"}`, "bad request: status takes no target and no count"},
		{`{"version":1,"method":"down","count":1}`, "bad request: down takes no target and no count"},
		{`{"version":1,"method":"ping"}`, "bad request: a target has 1 to 255 bytes"},
		{`{"version":1,"method":"ping","target":"` + strings.Repeat("a", 256) + `"}`, "bad request: a target has 1 to 255 bytes"},
		{`{"version":1,"method":"ping","target":"a","count":-1}`, "bad request: a count is 0 to 1048576"},
		{`{"version":1,"method":"ping","target":"a","count":99999999999999999999}`, "bad request: a field is unknown or of a wrong type"},
		{long, "bad request: more than 4096 bytes"},
		{"{\"version\":1,\"method\":\"status\"}\n{}", "bad request: more than one line"},
	} {
		conn := dial(t, path)
		if _, err := conn.Write([]byte(tt.line + "\n")); err != nil {
			t.Fatal(err)
		}
		got, err := answerOn(conn)
		if err != nil || got.Error == nil || got.Error.Message != tt.want {
			t.Errorf("%.60s\n got %+v, %v\nwant %s", tt.line, got.Error, err, tt.want)
		}
		conn.Close()
	}
}

func TestEveryTruncationOfARequestIsRefused(t *testing.T) {
	const whole = `{"version":1,"method":"ping","target":"app-1","count":3}`
	if _, err := parseRequest([]byte(whole)); err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) {
		if _, err := parseRequest([]byte(whole[:n])); err == nil {
			t.Errorf("accepted %q", whole[:n])
		}
	}
	path, _ := serve(t, &fake{})
	conn := dial(t, path)
	defer conn.Close()
	_, _ = conn.Write([]byte(whole)) // no line feed
	_ = conn.(*net.UnixConn).CloseWrite()
	if got, err := answerOn(conn); err != nil || got.Error == nil || got.Error.Code != CodeBadRequest {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestClientRefusesStrangeAnswers(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{"hello", "control: answer is not JSON: invalid character 'h' looking for beginning of value"},
		{`{"version":2,"status":{}}`, "the running process speaks version 2 of the control protocol, this command version 1; use the same icvpn binary for both"},
		{`{"version":1,"done":true}`, "control: unexpected answer"},
		{`{"version":9,"error":{"code":"new","message":"of the future"}}`, "of the future"},
	} {
		path := filepath.Join(t.TempDir(), "c.sock")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			conn, err := l.Accept()
			if err == nil {
				_, _ = conn.Write([]byte(tt.line + "\n"))
				conn.Close()
			}
		}()
		if _, err := NewClient(path).Status(t.Context()); err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v, want %s", tt.line, err, tt.want)
		}
		l.Close()
		<-done
	}
}

// TestJSONIsStable holds the JSON that scripts rely on. A change of these files
// that is not an addition needs a new Version.
func TestJSONIsStable(t *testing.T) {
	for name, v := range map[string]any{
		"status":       someStatus().complete(),
		"status-empty": Status{}.complete(),
		"peers":        completePeers(somePeers()),
		"join":         JoinLog{Version, []JoinStep{{Name: "admit", Started: t0, DurationMS: 12.5, Detail: "super peer 192.0.2.1:4500"}, {Name: "unlock", Started: t0, Error: "no key"}}},
		"ping":         PingReply{Seq: 1, From: "app-1", Address: someIPv4, Path: "198.51.100.4:4500", Route: RouteDirect, RTTMS: 1.2},
		"error":        response{Version: Version, Error: &Error{CodeNotAllowed, "no rule lets web reach db"}},
	} {
		got, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, '\n')
		file := filepath.Join("testdata", name+".json")
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s:\n%s", file, got)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"version":1,"method":"ping","target":"app-1","count":3}`))
	f.Add([]byte(`{"version":1,"method":"status"}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := parseRequest(line)
		if err != nil {
			return
		}
		again, err2 := json.Marshal(r)
		if err2 != nil {
			t.Fatal(err2)
		}
		if r2, err := parseRequest(again); err != nil || r2 != r {
			t.Fatalf("%s: %+v, then %+v, %v", line, r, r2, err)
		}
	})
}

func FuzzParseResponse(f *testing.F) {
	for _, r := range []response{
		{Version: 1, Status: someStatus().complete()}, {Version: 1, Peers: completePeers(somePeers())},
		{Version: 1, Done: true}, {Version: 1, Error: &Error{CodeBusy, "x"}},
	} {
		line, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if r, err := parseResponse(line); err == nil && r.Version != Version {
			t.Fatalf("accepted version %d", r.Version)
		}
	})
}

func dial(t testing.TB, path string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func answerOn(conn net.Conn) (response, error) {
	var r response
	err := json.NewDecoder(conn).Decode(&r)
	return r, err
}

func wantCode(t testing.TB, err error, code Code, message string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code != code || e.Message != message {
		t.Errorf("got %#v, want %s: %s", err, code, message)
	}
}

func wantJSON(t testing.TB, got, want any) {
	t.Helper()
	g, _ := json.Marshal(got)
	w, _ := json.Marshal(want)
	if !bytes.Equal(g, w) {
		t.Errorf("\n got %s\nwant %s", g, w)
	}
}
