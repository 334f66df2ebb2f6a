package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"icvpn/internal/config"
	"icvpn/internal/demo"
	"icvpn/internal/filter"
	"icvpn/internal/node"
	"icvpn/internal/owner"
	"icvpn/internal/process"
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
	// refused says whether an error of the others is a super peer's refusal, or the
	// place taken by another machine: both exit with a code of their own.
	refused func(err error) bool
}

// linked returns the engine of this build.
func linked() engine {
	return engine{
		peer: func(ctx context.Context, c config.Peer, token []byte, log *slog.Logger) error {
			return process.Peer(ctx, c, token, version+revision(), log)
		},
		super: func(ctx context.Context, c config.Super, log *slog.Logger) error {
			return process.Super(ctx, c, version+revision(), log)
		},
		create: create,
		demo:   demo.Run,
		refused: func(err error) bool {
			var r *node.RefusedError
			return errors.As(err, &r) || errors.Is(err, node.ErrClone)
		},
	}
}

// create makes a service and writes its files.
func create(_ context.Context, o createOptions, out io.Writer) error {
	s, err := owner.Create(owner.Options{
		Name: o.Name, Prefix4: o.CIDR, Roles: o.Roles, SuperPeers: o.Supers, Authorities: o.Authorities, LabelScope: o.Scope,
		Rules: rules(o), Policy: o.Policy, Join: o.Join, Now: time.Now(),
	})
	if err != nil {
		if o.PolicyFile != "" {
			return fmt.Errorf("%s: %w", o.PolicyFile, err)
		}
		return err
	}
	if err := s.Write(o.Out); err != nil {
		return err
	}
	s.Explain(out, filepath.Clean(o.Out))
	return nil
}

// rules translates --allow; without any, every machine may reach every other,
// and in a universal overlay none.
func rules(o createOptions) []filter.Rule {
	if o.Universe {
		return nil
	}
	if len(o.Allow) == 0 {
		return []filter.Rule{{From: filter.Selector{}, To: filter.Selector{}}}
	}
	var out []filter.Rule
	for _, a := range o.Allow {
		r := filter.Rule{From: filter.Selector{owner.RoleLabel: a.From}, To: filter.Selector{owner.RoleLabel: a.To}, Proto: filter.Proto(a.Protocol)}
		if a.First != 0 {
			r.Ports = []filter.Range{filter.Ports(a.First, a.Last)}
		}
		out = append(out, r)
	}
	return out
}
