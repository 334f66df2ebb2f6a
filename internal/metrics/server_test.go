package metrics

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"icvpn/internal/control"
)

// serve serves src on loopback until the test ends, and returns the base URL.
func serve(t *testing.T, src Source) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l, err := Listen(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := Serve(ctx, l, src, slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(cancel)
	return "http://" + l.Addr().String()
}

// request returns code and body of an answer.
func request(t *testing.T, method, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestMetricsAreServed(t *testing.T) {
	url := serve(t, newPeer())
	code, body := request(t, http.MethodGet, url+"/metrics")
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	for _, line := range []string{
		"icvpn_up 1", `icvpn_tunnels{state="up"} 4`, `icvpn_esp_drops_total{reason="replay"} 0`, "icvpn_members 5",
		"icvpn_credential_expiry_seconds 1.8e+09", "# TYPE icvpn_inbound_bytes_total counter", "go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(body, line) {
			t.Errorf("no line %q", line)
		}
	}
}

func TestHealthFollowsTheStatus(t *testing.T) {
	cases := []struct {
		state control.State
		err   error
		code  int
		body  string
	}{
		{control.StateUp, nil, http.StatusOK, "up\n"},
		{control.StateJoining, nil, http.StatusServiceUnavailable, "joining\n"},
		{control.StateLeaving, nil, http.StatusServiceUnavailable, "leaving\n"},
		{control.StateUp, errors.New("the control loop hangs"), http.StatusServiceUnavailable, "no answer\n"},
	}
	for _, c := range cases {
		url := serve(t, &fake{status: control.Status{State: c.state}, err: c.err})
		if code, body := request(t, http.MethodGet, url+"/healthz"); code != c.code || body != c.body {
			t.Errorf("%s, %v: %d %q", c.state, c.err, code, body)
		}
	}
}

func TestNothingElseIsServed(t *testing.T) {
	url := serve(t, newPeer())
	for _, c := range []struct {
		method, path string
		code         int
	}{
		{http.MethodGet, "/", http.StatusNotFound},
		{http.MethodGet, "/debug/pprof/", http.StatusNotFound},
		{http.MethodPost, "/metrics", http.StatusMethodNotAllowed},
	} {
		if code, _ := request(t, c.method, url+c.path); code != c.code {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, code, c.code)
		}
	}
}

func TestPortInUseIsOneSentence(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = Listen(t.Context(), l.Addr().String())
	if err == nil || !strings.Contains(err.Error(), "already in use on this machine") || strings.Contains(err.Error(), "\n") {
		t.Fatalf("got %v", err)
	}
}

// TestServeEndsWithItsContext also holds a connection open that asks nothing:
// it may not keep the process alive.
func TestServeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l, err := Listen(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, newPeer(), slog.New(slog.DiscardHandler)) }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Serve outlives its context")
	}
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("the port is still open")
	}
}

// TestABrokenListenerIsReported: the process goes on without metrics and says so.
func TestABrokenListenerIsReported(t *testing.T) {
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := Serve(t.Context(), l, newPeer(), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("no error")
	}
}
