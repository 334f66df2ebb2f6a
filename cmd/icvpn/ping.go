package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"icvpn/internal/control"
)

type pingOptions struct {
	count  int
	json   bool
	target string
}

func newPing(a *app) *cobra.Command {
	o := pingOptions{}
	cmd := &cobra.Command{
		Use:   "ping [flags] NAME|IP",
		Short: "Reach another machine through the tunnel and say which way",
		Long: "ping sends echo requests to another machine of the service through the tunnel and says which way they\n" +
			"went. It fails if none was answered, and says which rule is missing if the policy forbids it.",
		Example: "  icvpn ping app-1\n  icvpn ping -c 1 10.42.0.2",
		Args:    exactArgs("NAME or IP"),
	}
	flags := bindSocket(cmd)
	cmd.Flags().IntVarP(&o.count, "count", "c", 3, "`NUMBER` of requests; 0: until Ctrl-C")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON, version 1, a line for each request")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.target = args[0]
		return a.ping(cmd.Context(), flags, o)
	}
	return cmd
}

func (a *app) ping(ctx context.Context, flags *configFlags, o pingOptions) error {
	if o.count < 0 {
		return usageErrorf("--count %d is negative; use 0 to go on until Ctrl-C", o.count)
	}
	c, err := a.client(flags)
	if err != nil {
		return err
	}
	ctx, stop := interruptible(ctx, a.stderr)
	defer stop()
	sent, answered := 0, 0
	err = c.Ping(ctx, o.target, o.count, func(r control.PingReply) error {
		sent++
		if r.Error == "" {
			answered++
		}
		return a.printReply(o, r)
	})
	if err != nil && !(ctx.Err() != nil && errors.Is(err, context.Canceled)) {
		return a.explain(c, err)
	}
	if answered == 0 {
		return fmt.Errorf("no answer from %s to %s", printable(o.target), plural(sent, "request"))
	}
	if answered < sent && !o.json {
		fmt.Fprintf(a.stdout, "%d of %s answered\n", answered, plural(sent, "request"))
	}
	return nil
}

func (a *app) printReply(o pingOptions, r control.PingReply) error {
	if o.json {
		return json.NewEncoder(a.stdout).Encode(r)
	}
	from := o.target
	if r.From != "" {
		from = r.From
	}
	if r.Address.IsValid() && r.Address.String() != from {
		from += " (" + r.Address.String() + ")"
	}
	line := fmt.Sprintf("pong from %s via %s in %s", from, orDash(pathWord(r.Path, r.Route)), milliseconds(r.RTTMS))
	if r.Error != "" {
		line = fmt.Sprintf("no answer from %s: %s", from, plain(r.Error))
	}
	_, err := fmt.Fprintln(a.stdout, printable(line))
	return err
}
