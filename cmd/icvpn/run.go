package main

import (
	"context"
	"errors"
	"io"
	"log/slog"

	"icvpn/internal/config"
)

// engine is what the commands run. Every function runs in the foreground until
// its work is done or ctx ends, leaves cleanly then, and returns nil for a leave
// that was asked for.
type engine struct {
	// peer joins with token, which it borrows, and serves until ctx ends or
	// somebody asks for the leave on the control socket.
	peer func(ctx context.Context, c config.Peer, token []byte, log *slog.Logger) error
	// super is a super peer.
	super func(ctx context.Context, c config.Super, log *slog.Logger) error
	// create makes a service and prints the next commands to out.
	create func(ctx context.Context, o createOptions, out io.Writer) error
	// demo shows the whole path on this machine.
	demo func(ctx context.Context, out io.Writer) error
	// refused says whether an error of the others is a super peer's refusal,
	// which exits with its own code.
	refused func(err error) bool
}

var errNotLinked = errors.New("this build holds only the commands that ask a running process")

// linked returns the engine of this build.
func linked() engine {
	return engine{
		peer:    func(context.Context, config.Peer, []byte, *slog.Logger) error { return errNotLinked },
		super:   func(context.Context, config.Super, *slog.Logger) error { return errNotLinked },
		create:  func(context.Context, createOptions, io.Writer) error { return errNotLinked },
		demo:    func(context.Context, io.Writer) error { return errNotLinked },
		refused: func(error) bool { return false },
	}
}
