package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// sameSignal is how long after the first signal others count as the same one.
// timeout(1) signals the process and then its group, and so the process twice:
// within microseconds. Nobody presses Ctrl-C twice that fast.
const sameSignal = 100 * time.Millisecond

// interruptible returns a context that ends at the first SIGINT or SIGTERM, so
// that the command leaves cleanly. A second signal, no sooner than sameSignal
// after the first, ends the process at once.
// The caller calls stop, after which signals have their usual effect again.
func interruptible(parent context.Context, stderr io.Writer) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	s := &signals{in: make(chan os.Signal, 2), done: make(chan struct{}), cancel: cancel, stderr: stderr, exit: os.Exit}
	signal.Notify(s.in, os.Interrupt, syscall.SIGTERM)
	s.running.Go(s.signalLoop)
	return ctx, func() {
		signal.Stop(s.in)
		close(s.done)
		s.running.Wait()
		cancel()
	}
}

type signals struct {
	in      chan os.Signal // two: the first and the impatient one
	done    chan struct{}
	cancel  context.CancelFunc
	stderr  io.Writer
	exit    func(int)
	running sync.WaitGroup
}

func (s *signals) signalLoop() {
	select {
	case <-s.in:
		s.cancel()
	case <-s.done:
		return
	}
	for first := time.Now(); ; {
		select {
		case sig := <-s.in:
			if time.Since(first) >= sameSignal {
				s.end(sig)
				return
			}
		case <-s.done:
			return
		}
	}
}

func (s *signals) end(sig os.Signal) {
	fmt.Fprintln(s.stderr, "icvpn: ended at once by a second signal; the machine may still be listed until its record expires")
	code := exitSignal
	if n, ok := sig.(syscall.Signal); ok {
		code += int(n)
	}
	s.exit(code)
}
