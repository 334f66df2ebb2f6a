package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"icvpn/internal/config"
	"icvpn/internal/control"
)

// The scripts know two programs: icvpn is this build, icvpn-fake the same
// outside around an engine that says what it was asked to do. `serve MODE`
// starts a control socket whose answers are fixed.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"icvpn":      main,
		"icvpn-fake": mainFake,
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("ICVPN_STATE_DIR", filepath.Join(e.WorkDir, "s"))
			e.Setenv("ICVPN_NAME", "web-1")
			return nil
		},
		Cmds:      map[string]func(*testscript.TestScript, bool, []string){"serve": cmdServe, "exitcode": cmdExitCode},
		Condition: func(cond string) (bool, error) { return os.Geteuid() == 0, expect(cond, "root") },
	})
}

func expect(got, want string) error {
	if got != want {
		return fmt.Errorf("unknown condition %q", got)
	}
	return nil
}

// cmdExitCode is `exitcode CODE PROGRAM ARGS...`: exec, and the code it ends with.
func cmdExitCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exitcode CODE PROGRAM ARGS...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var ended interface{ ExitCode() int }
	if errors.As(err, &ended) {
		code = ended.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// now is when the fake program runs, 3 h 5 min after the fake process began.
var now = time.Date(2026, 5, 1, 15, 5, 0, 0, time.UTC)

func mainFake() {
	a := &app{stdout: os.Stdout, stderr: os.Stderr, env: os.LookupEnv, now: func() time.Time { return now }}
	a.engine = fakeEngine()
	a.colourOut = os.Getenv("FAKE_COLOUR") != ""
	os.Exit(a.main(os.Args[1:]))
}

var errRefused = errors.New("super peer 192.0.2.1:4500 refused this machine: the secret has expired; ask the owner for a new token")

func fakeEngine() engine {
	return engine{
		peer: func(ctx context.Context, c config.Peer, token []byte, log *slog.Logger) error {
			fmt.Printf("peer name=%s listen=%s labels=%v token=%d bytes\n", c.Name, c.Listen, c.Labels, len(token))
			log.Info("joined", "service", "shop")
			return fakeLife(ctx)
		},
		super: func(ctx context.Context, c config.Super, log *slog.Logger) error {
			fmt.Printf("super handover=%s state_dir=%s\n", filepath.Base(c.HandOvers[0].File), filepath.Base(c.StateDir))
			return fakeLife(ctx)
		},
		create: func(_ context.Context, o createOptions, out io.Writer) error {
			_, err := fmt.Fprintf(out, "create %s %s roles=%v allow=%v supers=%v out=%s policy=%q\n",
				o.Name, o.CIDR, o.Roles, o.Allow, o.Supers, o.Out, o.Policy)
			return err
		},
		demo:    func(_ context.Context, out io.Writer) error { _, err := fmt.Fprintln(out, "demo"); return err },
		refused: func(err error) bool { return errors.Is(err, errRefused) },
	}
}

// fakeLife ends as FAKE_LIFE says. A signal is sent by the process to itself, a
// second one until it counts: no clock decides when they arrive.
func fakeLife(ctx context.Context) error {
	switch os.Getenv("FAKE_LIFE") {
	case "term":
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
		<-ctx.Done()
		fmt.Println("left")
		return ctx.Err()
	case "term twice":
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
		<-ctx.Done()
		for { // a leave that hangs
			_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
			time.Sleep(sameSignal / 4)
		}
	case "fail":
		return errors.New("node: port 4500 is in use\nby another process \x1b[2J; choose another with --listen")
	case "refused":
		return errRefused
	}
	return nil
}

// cmdServe is `serve up|joining|silent`: it serves the socket of ICVPN_STATE_DIR
// until the script ends.
func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: serve MODE")
	}
	l, err := control.Listen(filepath.Join(ts.Getenv("ICVPN_STATE_DIR"), "control.sock"))
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	h := control.Handler(&fakeProcess{mode: args[0], end: cancel})
	if l, ok := leaves[args[0]]; ok {
		h = &fakeLeaver{h.(*fakeProcess), l}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = control.Serve(ctx, l, h, slog.New(slog.DiscardHandler))
	}()
	ts.Defer(func() { cancel(); <-done })
}

// leaves are the modes in which the process says how its leave went.
var leaves = map[string]control.Leave{
	"leaves-cleanly": {PeersTold: 2, Published: true, Withdrawn: true, ContactEnds: now.Add(9 * time.Minute)},
	"leaves-unheard": {PeersTold: 1, Published: true, ContactEnds: now.Add(9 * time.Minute), Error: "overlay: no node answered"},
	"leaves-hidden":  {},
}

type fakeLeaver struct {
	*fakeProcess
	left control.Leave
}

func (p *fakeLeaver) Left(context.Context) *control.Leave { return &p.left }

type fakeProcess struct {
	mode string
	end  context.CancelFunc
}

var _ control.Handler = (*fakeProcess)(nil)

func (p *fakeProcess) Status(context.Context) (control.Status, error) {
	began := now.Add(-3*time.Hour - 5*time.Minute)
	if p.mode != "up" && p.mode != "twins" {
		return control.Status{Role: control.RolePeer, State: control.StateJoining, Since: now.Add(-3 * time.Second), Started: began, Software: "1.0.0", Process: 7}, nil
	}
	return control.Status{
		Role: control.RolePeer, State: control.StateUp, Since: began, Started: began, Software: "1.0.0", Process: 7,
		Name: "web-1", PID: strings.Repeat("ab", 20), Service: strings.Repeat("cd", 20), ServiceName: "shop",
		Labels: map[string]string{"zone": "eu-1", "tier": "web"}, Interface: "icvpn0", MTU: 1400,
		Address4: netip.MustParseAddr("10.42.0.2"), Address6: netip.MustParseAddr("fd42::2"),
		Listen: []string{"0.0.0.0:4500", "[::]:4500"}, Endpoints: []string{"198.51.100.4:4500"},
		SuperPeer: "192.0.2.1:4500", Epoch: 3, CredentialExpires: now.Add(50 * time.Hour), PeersKnown: 3, PeersUp: 1,
		RxPackets: 10, RxBytes: 1536, TxPackets: 20, TxBytes: 3 << 30, Warnings: []string{"clock is 3 s off\x1b[2J"},
		Release: &control.Release{
			Channel: "stable", Version: "1.2.0", Minimum: "0.9.0", Sequence: 5, Signed: now.Add(-time.Hour), Expires: now.Add(720 * time.Hour), Artefacts: []control.Artefact{},
			Note: "this process runs 1.0.0, and 1.2.0 is out",
		},
	}, nil
}

func (p *fakeProcess) Peers(context.Context) ([]control.Peer, error) {
	switch p.mode {
	case "up":
	case "twins":
		return []control.Peer{
			{Name: "web-1", PID: strings.Repeat("01", 20), Allowed: true, State: control.TunnelNone},
			{Name: "app-1", PID: strings.Repeat("02", 20), Allowed: true, State: control.TunnelNone},
			{Name: "app-1", PID: strings.Repeat("03", 20), Allowed: true, State: control.TunnelNone},
		}, nil
	default:
		return nil, nil
	}
	return []control.Peer{
		{
			Name: "app-1", PID: strings.Repeat("01", 20), Address4: netip.MustParseAddr("10.42.0.3"), Labels: map[string]string{"tier": "app"},
			Allowed: true, Reachable: "yes, web may reach app", State: control.TunnelUp, Route: control.RouteDirect,
			Path: "198.51.100.5:4500", Suite: "aes128-cbc-sha256", Group: "x25519-mlkem768",
			RxPackets: 9, RxBytes: 1400, TxPackets: 12, TxBytes: 123456, LastHandshake: now.Add(-90 * time.Second),
		},
		{
			Name: "app-2", Address4: netip.MustParseAddr("10.42.0.4"), Labels: map[string]string{"tier": "app"},
			Allowed: true, Reachable: "yes, web may reach app", State: control.TunnelConnecting, Route: control.RouteRelayed, Path: "192.0.2.1:4500",
		},
		{Name: "web-2", Address4: netip.MustParseAddr("10.42.0.6"), Allowed: true, Reachable: "yes", State: control.TunnelNone},
		{Name: "db-1\x1b[2J", Labels: map[string]string{"tier": "db"}, Reachable: "no rule lets web reach db", State: control.TunnelNone},
	}, nil
}

func (p *fakeProcess) JoinSteps(context.Context) ([]control.JoinStep, error) {
	if p.mode != "up" {
		return nil, nil
	}
	return []control.JoinStep{
		{Name: "admit", Started: now, DurationMS: 31.4159, Detail: "super peer 192.0.2.1:4500"},
		{Name: "unlock", Started: now, DurationMS: 0.25, Detail: "4 attributes"},
		{Name: "publish", Started: now, DurationMS: 12345, Error: "only 1 of 3 stores answered"},
	}, nil
}

func (p *fakeProcess) Ping(_ context.Context, target string, count int, emit func(control.PingReply) error) error {
	switch target {
	case "db-1":
		return &control.Error{Code: control.CodeNotAllowed, Message: "web-1 may not reach db-1: no rule lets web reach db"}
	case "nobody":
		return &control.Error{Code: control.CodeUnknownPeer, Message: "no machine of the service is called nobody; icvpn peers lists them"}
	}
	for i := range count {
		r := control.PingReply{Seq: i + 1, From: "app-1", Address: netip.MustParseAddr("10.42.0.3"),
			Path: "198.51.100.5:4500", Route: control.RouteDirect, RTTMS: 1.23}
		switch {
		case target == "dead" || target == "lossy" && i == 0:
			r = control.PingReply{Seq: i + 1, From: target, Address: r.Address, Error: "no reply within 2s"}
		case target == "far":
			r.Path, r.Route = "192.0.2.1:4500", control.RouteRelayed
		}
		if err := emit(r); err != nil {
			return err
		}
	}
	return nil
}

func (p *fakeProcess) Down(ctx context.Context) error {
	if p.mode == "silent" {
		return nil // promises to leave, and stays
	}
	p.end()
	return nil
}
