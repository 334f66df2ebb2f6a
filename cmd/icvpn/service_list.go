package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"icvpn/internal/config"
	"icvpn/internal/control"
)

func newServiceList(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list [flags]",
		Short:   "List the services that a super peer knows",
		Long:    "list asks the super peer on this machine for the services it serves, and for those that others show in the\nuniversal overlay it has joined.",
		Example: "  icvpn service list\n  icvpn service list --json | jq -r '.services[].id'",
		Args:    exactArgs(),
	}
	flags := bindSocket(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, version 1")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all, err := a.services(cmd.Context(), flags)
		switch {
		case err != nil:
			return err
		case asJSON:
			return a.printJSON(all)
		}
		a.printServices(all.Services)
		return nil
	}
	return cmd
}

func newServiceShow(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "show NAME|ID [flags]",
		Short:   "Show a service that a super peer knows",
		Long:    "show prints what the super peer on this machine knows of a service: its super peers with their keys, its\naddresses, and of a service that it serves the access rules. An ID may be shortened to its first 4 digits or\nmore; of a name that several services have, show asks for the ID.",
		Example: "  icvpn service show shop",
		Args:    exactArgs("NAME|ID"),
	}
	flags := bindSocket(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, version 1")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		all, err := a.services(cmd.Context(), flags)
		if err != nil {
			return err
		}
		s, err := chooseService(all.Services, args[0])
		switch {
		case err != nil:
			return err
		case asJSON:
			return a.printJSON(control.ServiceList{Version: control.Version, Services: []control.Service{s}})
		}
		a.printService(s)
		return nil
	}
	return cmd
}

func (a *app) services(ctx context.Context, flags *configFlags) (control.ServiceList, error) {
	c, err := a.superClient(flags)
	if err != nil {
		return control.ServiceList{}, err
	}
	all, err := c.Services(ctx)
	if err != nil {
		return all, a.explainSuper(c, err)
	}
	return all, nil
}

// minServiceID is how many digits of an ID are taken for one.
const minServiceID = 4

// chooseService finds a service by its ID, the beginning of one, or its name.
func chooseService(all []control.Service, what string) (control.Service, error) {
	match := func(is func(control.Service) bool) (found []control.Service) {
		return slices.DeleteFunc(slices.Clone(all), func(s control.Service) bool { return !is(s) })
	}
	found := match(func(s control.Service) bool { return s.Name == what })
	if len(found) == 0 && len(what) >= minServiceID {
		found = match(func(s control.Service) bool { return strings.HasPrefix(s.ID, strings.ToLower(what)) })
	}
	switch len(found) {
	case 0:
		return control.Service{}, fmt.Errorf("no service %q is known here; icvpn service list lists those that are", what)
	case 1:
		return found[0], nil
	}
	var ids []string
	for _, s := range found {
		ids = append(ids, s.ID)
	}
	return control.Service{}, fmt.Errorf("%d services are called %q; give the ID of the one that you mean: %s", len(found), what, strings.Join(ids, ", "))
}

func (a *app) printServices(all []control.Service) {
	p := palette(a.colourOut)
	t := &table{}
	t.row(p.dim("NAME"), p.dim("ID"), p.dim("SUPER PEERS"), p.dim("LAST SEEN"), p.dim("SEQUENCE"), p.dim("UNTIL"), p.dim("FROM"))
	for _, s := range all {
		var at []string
		var last time.Time
		for _, sp := range s.SuperPeers {
			at = append(at, strings.Join(sp.Endpoints, ", "))
			if sp.Seen.After(last) {
				last = sp.Seen
			}
		}
		t.row(printable(s.Name), s.ID, orDash(strings.Join(at, "; ")), a.ago(last), fmt.Sprint(s.Sequence), a.expiry(s.Expires), from(s))
	}
	t.writeTo(a.stdout)
}

// from says how a service is known.
func from(s control.Service) string {
	switch {
	case s.Own && s.Universe != "":
		return "served here, shown in " + printable(s.Universe)
	case s.Own:
		return "served here"
	}
	return printable(s.Universe)
}

func (a *app) printService(s control.Service) {
	p := palette(a.colourOut)
	t := &table{}
	row := func(key, value string) {
		if value != "" {
			t.row(p.dim(key), printable(value))
		}
	}
	row("name", s.Name)
	row("ID", s.ID)
	row("known by", from(s))
	row("addresses", addressRanges(s))
	row("descriptor", fmt.Sprintf("sequence number %d, %s", s.Sequence, plain(a.expiry(s.Expires))))
	for _, o := range s.Owners {
		row("owner", o)
	}
	row("ABE", s.ABEParams)
	for _, sp := range s.SuperPeers {
		row("super peer", strings.Join(sp.Endpoints, ", "))
		row("  key", sp.Fingerprint)
		row("  roles", strings.Join(sp.Roles, ", "))
		row("  addresses", sp.Block4)
		row("  grant", plain(a.expiry(sp.Expires)))
		row("  last seen", a.ago(sp.Seen))
		if len(sp.Labels) > 0 {
			row("  labels", labels(sp.Labels))
		}
		row("  software", sp.Software)
		row("  load", sp.Load)
	}
	for _, r := range s.Rules {
		row("rule", r)
	}
	if s.Own && len(s.Rules) == 0 {
		row("rule", "none: no machine may reach another")
	}
	t.writeTo(a.stdout)
}

func addressRanges(s control.Service) string {
	return strings.Trim(s.Prefix4+", "+s.Prefix6, ", ")
}

// superClient returns a client for the super peer that flags point at.
func (a *app) superClient(flags *configFlags) (*control.Client, error) {
	path, err := config.SuperSocket(flags.source(a))
	if err != nil {
		return nil, err
	}
	return control.NewClient(path), nil
}

// explainSuper says what to do where no super peer answers.
func (a *app) explainSuper(c *control.Client, err error) error {
	if !errors.Is(err, control.ErrNotRunning) {
		return err
	}
	hint := ""
	if os.Geteuid() != 0 {
		hint = ", or ask as the user it runs as"
	}
	return &noSuperError{socket: c.Path(), hint: hint}
}

// noSuperError says that there is no super peer to ask, and how to change that.
type noSuperError struct{ socket, hint string }

func (e *noSuperError) Error() string {
	return fmt.Sprintf("no super peer is running: nothing answers on %s; run this on a super peer's machine, with its --config or --state-dir%s", e.socket, e.hint)
}
