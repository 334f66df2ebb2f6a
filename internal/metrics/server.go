package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"icvpn/internal/control"
)

// Limits of the HTTP server: a scrape takes milliseconds and has no body.
const (
	readTimeout   = 5 * time.Second
	writeTimeout  = 10 * time.Second
	idleTimeout   = 2 * time.Minute // longer than the usual scrape interval
	maxHeader     = 8 << 10
	maxScrapes    = 4 // at once
	shutdownGrace = 500 * time.Millisecond
)

// Listen binds the address of the metrics.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("metrics address %s is already in use on this machine: stop the other program or choose another port with --metrics-listen", addr)
	case err != nil:
		return nil, fmt.Errorf("metrics address %s: %w", addr, err)
	}
	return l, nil
}

// Serve answers GET /metrics and GET /healthz until ctx ends. It takes l.
func Serve(ctx context.Context, l net.Listener, src Source, log *slog.Logger) error {
	s := &http.Server{
		Handler: handler(src), ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	defer s.Close()
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		if s.Shutdown(grace) != nil {
			_ = s.Close() // a scrape under way is cut off
		}
	})
	log.Info("metrics are served", "addr", l.Addr())
	err := s.Serve(l)
	if !stop() {
		<-done
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("metrics: %w", err)
}

func handler(src Source) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(NewRegistry(src), promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { health(w, r, src) })
	return mux
}

// health answers 200 when the process is up, so that a load balancer or a
// container platform sends it traffic, and 503 with the state otherwise.
func health(w http.ResponseWriter, r *http.Request, src Source) {
	ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
	defer cancel()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	s, err := src.Status(ctx)
	switch {
	case err != nil:
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "no answer")
	case s.State != control.StateUp:
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, s.State)
	default:
		fmt.Fprintln(w, s.State)
	}
}
