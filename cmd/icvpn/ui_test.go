package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/slogtest"
	"testing/synctest"
	"time"

	"icvpn/internal/config"
)

func TestTableAlignsColouredCells(t *testing.T) {
	tb := &table{right: map[int]bool{1: true}}
	tb.row(palette(true).green("up"), "7", "x")
	tb.row("größer", "1234", "")
	var b bytes.Buffer
	tb.writeTo(&b)
	if want := "\x1b[32mup\x1b[0m         7  x\ngrößer  1234\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestNumbersForPeople(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 5 << 30: "5.0 GiB", math.MaxUint64: "16.0 EiB"} {
		if got := byteCount(n); got != want {
			t.Errorf("%d bytes: %s, want %s", n, got, want)
		}
	}
	for ms, want := range map[float64]string{0.123: "0.12ms", 1.24: "1.2ms", 99.9: "99.9ms", 1234: "1234ms", 12345: "12.3s"} {
		if got := milliseconds(ms); got != want {
			t.Errorf("%v ms: %s, want %s", ms, got, want)
		}
	}
	t0 := time.Unix(0, 0)
	for d, want := range map[time.Duration]string{
		-time.Hour: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m1s", 25 * time.Hour: "1d1h", 3*time.Hour + time.Minute: "3h1m",
	} {
		if got := age(t0.Add(d), t0); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestOneLine(t *testing.T) {
	if got, want := oneLine("a\n\nb\x1b[0m\r\nc\n"), "a; b?[0m; c"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestColourNeedsATerminal(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	none := func(string) (string, bool) { return "", false }
	if wantColour(f, none) {
		t.Error("a file takes colours")
	}
}

func TestConsoleReadsWell(t *testing.T) {
	var b bytes.Buffer
	h := newConsole(&b, slog.LevelInfo, false)
	log := slog.New(h).With("peer", "app-1")
	log.Debug("hidden")
	log.Info("joined", "dur", 1234567890*time.Nanosecond, "detail", "two words", slog.Group("addr", "v4", "10.42.0.2"))
	log.Error("odd", "k", "\x1b[2J", "empty", "")
	lines := strings.Split(b.String(), "\n")
	for i, want := range []string{
		`INFO  joined peer=app-1 dur=1.234568s detail="two words" addr.v4=10.42.0.2`,
		`ERROR odd peer=app-1 k="\x1b[2J" empty=""`,
	} {
		_, got, _ := strings.Cut(lines[i], " ")
		if got != want {
			t.Errorf("line %d\n got %s\nwant %s", i, got, want)
		}
	}
}

// TestConsoleIsAHandler runs the standard library's checks of a slog.Handler.
func TestConsoleIsAHandler(t *testing.T) {
	var b bytes.Buffer
	newHandler := func(*testing.T) slog.Handler {
		b.Reset()
		return newConsole(&b, slog.LevelInfo, false)
	}
	slogtest.Run(t, newHandler, func(t *testing.T) map[string]any { return parseLine(t, b.String()) })
}

// parseLine turns a line of slogtest, whose values are plain words, into nested
// maps.
func parseLine(t *testing.T, line string) map[string]any {
	t.Helper()
	out := map[string]any{}
	words := strings.Fields(line)
	if len(words) > 0 && strings.Count(words[0], ":") == 2 {
		out[slog.TimeKey] = words[0]
		words = words[1:]
	}
	out[slog.LevelKey] = words[0]
	for _, word := range words[1:] {
		key, value, ok := strings.Cut(word, "=")
		if !ok {
			out[slog.MessageKey] = word
			continue
		}
		m := out
		parts := strings.Split(key, ".")
		for _, group := range parts[:len(parts)-1] {
			if m[group] == nil {
				m[group] = map[string]any{}
			}
			m = m[group].(map[string]any)
		}
		m[parts[len(parts)-1]] = value
	}
	return out
}

func TestLoggerSuitsItsReader(t *testing.T) {
	for _, tt := range []struct {
		terminal bool
		format   string
		want     string
	}{{true, "text", "*main.console"}, {false, "text", "*slog.TextHandler"}, {true, "json", "*slog.JSONHandler"}} {
		a := &app{stderr: new(bytes.Buffer), terminalErr: tt.terminal}
		if got := fmt.Sprintf("%T", a.logger(config.Log{Format: tt.format}).Handler()); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}

func TestFirstSignalCancelsSecondExits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ctx, codes := newSignals()
		s.in <- syscall.SIGINT
		<-ctx.Done()
		time.Sleep(sameSignal)
		s.in <- syscall.SIGTERM
		if code := <-codes; code != 128+15 {
			t.Errorf("exit code %d", code)
		}
		s.running.Wait()
	})
}

// timeout(1) sends two signals, and means one.
func TestTwoSignalsAtOnceAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ctx, codes := newSignals()
		s.in <- syscall.SIGTERM
		s.in <- syscall.SIGTERM
		<-ctx.Done()
		time.Sleep(sameSignal - 1)
		s.in <- syscall.SIGINT
		synctest.Wait()
		select {
		case code := <-codes:
			t.Fatalf("ended at once, exit code %d", code)
		default:
		}
		time.Sleep(time.Nanosecond)
		s.in <- syscall.SIGINT // and they do not put off the second one
		if code := <-codes; code != 128+2 {
			t.Errorf("exit code %d", code)
		}
		s.running.Wait()
	})
}

// newSignals returns a running signalLoop whose exit codes arrive in codes.
func newSignals() (s *signals, ctx context.Context, codes chan int) {
	ctx, cancel := context.WithCancel(context.Background())
	codes = make(chan int, 1)
	s = &signals{
		in: make(chan os.Signal, 2), done: make(chan struct{}), cancel: cancel,
		stderr: new(bytes.Buffer), exit: func(c int) { codes <- c },
	}
	s.running.Go(s.signalLoop)
	return s, ctx, codes
}

func TestStopEndsTheSignalLoop(t *testing.T) {
	for _, signalled := range []bool{false, true} {
		ctx, stop := interruptible(context.Background(), new(bytes.Buffer))
		if signalled {
			if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			<-ctx.Done()
		}
		stop()
		if ctx.Err() == nil {
			t.Error("the context goes on")
		}
	}
}

func TestOnlyAnAskedForEndIsSuccess(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	other := errors.New("node: no luck")
	for _, tt := range []struct {
		ctx       context.Context
		err, want error
	}{
		{ended, context.Canceled, nil},
		{ended, fmt.Errorf("node: %w", context.Canceled), nil},
		{ended, other, other},
		{context.Background(), context.Canceled, context.Canceled},
		{context.Background(), nil, nil},
	} {
		if got := asked(tt.ctx, tt.err); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.err, got, tt.want)
		}
	}
}
