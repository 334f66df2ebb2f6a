package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// interruptible returns a context that ends at the first SIGINT or SIGTERM, so
// that the command leaves cleanly. A second signal ends the process at once.
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
	select {
	case sig := <-s.in:
		fmt.Fprintln(s.stderr, "icvpn: ended at once by a second signal; the machine may still be listed until its record expires")
		code := exitSignal
		if n, ok := sig.(syscall.Signal); ok {
			code += int(n)
		}
		s.exit(code)
	case <-s.done:
	}
}
