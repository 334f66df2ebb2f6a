package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"icvpn/internal/control"
)

type statusOptions struct {
	json, steps bool
	check       string
}

func newStatus(a *app) *cobra.Command {
	var o statusOptions
	cmd := &cobra.Command{
		Use:   "status [flags]",
		Short: "Say how the running process is",
		Long: "status asks the running process how it is.\n\n" +
			"--check live succeeds if the process answers, --check ready if it has joined and can carry traffic;\n" +
			"both print one word and are meant for health checks.",
		Example: "  icvpn status\n  icvpn status --json | jq -r .address4\n  icvpn status --check ready",
		Args:    exactArgs(),
	}
	flags := bindSocket(cmd)
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON, version 1")
	cmd.Flags().BoolVar(&o.steps, "steps", false, "print the steps of joining and how long each took")
	cmd.Flags().StringVar(&o.check, "check", "", "succeed if the process is `live|ready`")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.status(cmd.Context(), flags, o) }
	return cmd
}

func (a *app) status(ctx context.Context, flags *configFlags, o statusOptions) error {
	if o.check != "" && (o.json || o.steps) {
		return usageErrorf("--check prints one word; leave out --json and --steps")
	}
	if o.check != "" && o.check != "live" && o.check != "ready" {
		return usageErrorf("--check %q is not a check; use live or ready", o.check)
	}
	c, err := a.client(flags)
	if err != nil {
		return err
	}
	if o.steps {
		return a.steps(ctx, c, o.json)
	}
	s, err := c.Status(ctx)
	switch {
	case err != nil:
		return a.explain(c, err)
	case o.check != "":
		return a.check(s, o.check)
	case o.json:
		return a.printJSON(s)
	}
	a.printStatus(s)
	return nil
}

func (a *app) check(s control.Status, what string) error {
	if what == "ready" && s.State != control.StateUp {
		return fmt.Errorf("not ready: %s for %s", s.State, age(a.now(), s.Since))
	}
	fmt.Fprintln(a.stdout, what)
	return nil
}

func (a *app) steps(ctx context.Context, c *control.Client, asJSON bool) error {
	log, err := c.JoinSteps(ctx)
	switch {
	case err != nil:
		return a.explain(c, err)
	case asJSON:
		return a.printJSON(log)
	case len(log.Steps) == 0:
		fmt.Fprintln(a.stdout, "no step done yet")
		return nil
	}
	p := palette(a.colourOut)
	t := &table{right: map[int]bool{1: true}}
	t.row(p.dim("STEP"), p.dim("TOOK"), p.dim("DETAIL"))
	for _, s := range log.Steps {
		detail := printable(s.Detail)
		if s.Error != "" {
			detail = p.red("failed: " + plain(printable(s.Error)))
		}
		t.row(printable(s.Name), milliseconds(s.DurationMS), detail)
	}
	t.writeTo(a.stdout)
	return nil
}

// printStatus prints only what is known.
func (a *app) printStatus(s control.Status) {
	p := palette(a.colourOut)
	t := &table{}
	row := func(key, value string) {
		if value != "" {
			t.row(p.dim(key), printable(value))
		}
	}
	t.row(p.dim("state"), a.stateLine(s))
	row("name", s.Name)
	if len(s.Services) < 2 {
		row("service", withID(s.ServiceName, s.Service))
	}
	for _, of := range s.Services {
		if len(s.Services) > 1 {
			row("service", fmt.Sprintf("%s, %s, %d members, grant %s", withID(of.Name, of.Service), of.State, of.PeersKnown, a.expiry(of.CredentialExpires)))
		}
	}
	row("addresses", addresses(s.Address4, s.Address6))
	row("labels", labels(s.Labels))
	if s.Interface != "" {
		row("interface", fmt.Sprintf("%s, MTU %d", s.Interface, s.MTU))
	}
	row("listens on", strings.Join(s.Listen, ", "))
	row("seen as", strings.Join(s.Endpoints, ", "))
	row("relays", strings.Join(s.Relays, ", "))
	row("super peer", s.SuperPeer)
	if s.Epoch != 0 {
		row("epoch", fmt.Sprint(s.Epoch))
	}
	if !s.CredentialExpires.IsZero() {
		t.row(p.dim("credential"), a.expiry(s.CredentialExpires))
	}
	if h := s.Helper; h != nil {
		row("helper", fmt.Sprintf("%s, since %s", strings.Join(h.Roles, ", "), h.Since.UTC().Format("2006-01-02 15:04 MST")))
	}
	if len(s.Services) < 2 {
		releaseRows(row, "", s.Release)
	}
	for _, of := range s.Services {
		if len(s.Services) > 1 {
			releaseRows(row, "service "+of.Name+": ", of.Release)
		}
	}
	row("peers", fmt.Sprintf("%d known, %d connected", s.PeersKnown, s.PeersUp))
	row("traffic", fmt.Sprintf("%s received, %s sent", byteCount(s.RxBytes), byteCount(s.TxBytes)))
	row("identity", s.PID)
	for _, w := range s.Warnings {
		t.row(p.yellow("warning"), plain(printable(w)))
	}
	t.writeTo(a.stdout)
}

// releaseRows print what is known of releases of the program.
func releaseRows(row func(key, value string), of string, r *control.Release) {
	switch {
	case r == nil:
		return
	case r.Version == "":
		row("release", of+"none of channel "+r.Channel)
	default:
		row("release", fmt.Sprintf("%s%s of channel %s, signed on %s", of, r.Version, r.Channel, r.Signed.UTC().Format("2006-01-02 15:04 MST")))
	}
	row("", r.Note)
}

func (a *app) stateLine(s control.Status) string {
	p := palette(a.colourOut)
	state := p.yellow(printable(string(s.State)))
	if s.State == control.StateUp {
		state = p.green(string(s.State))
	}
	if !s.Since.IsZero() {
		state += " for " + age(a.now(), s.Since)
	}
	role := ""
	if s.Role == control.RoleSuper {
		role = "super peer, "
	}
	return fmt.Sprintf("%s (%sicvpn %s, process %d)", state, role, printable(s.Software), s.Process)
}

func (a *app) expiry(t time.Time) string {
	at := t.UTC().Format("2006-01-02 15:04 MST")
	if t.Before(a.now()) {
		return palette(a.colourOut).red("expired at " + at)
	}
	return "expires in " + age(t, a.now()) + ", at " + at
}
