package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"icvpn/internal/control"
)

func newDown(a *app) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "down [flags]",
		Short: "Have the running process leave the service and end",
		Long:  "down has the running process withdraw its record, close its tunnels, remove its interface and end, and waits for that.",
		Args:  exactArgs(),
	}
	flags := bindSocket(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait, a `DURATION` such as 30s")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.down(cmd.Context(), flags, timeout) }
	return cmd
}

func (a *app) down(ctx context.Context, flags *configFlags, timeout time.Duration) error {
	c, err := a.client(flags)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	left, err := c.Down(ctx)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("icvpn has not ended within %s; look at its log, or end it by a second signal", timeout)
	case err != nil:
		return a.explain(c, err)
	}
	fmt.Fprintln(a.stdout, printable(leaveLine(left)))
	return nil
}

// leaveLine says how the leave went, and what others still see.
func leaveLine(l *control.Leave) string {
	if l == nil {
		return "left" // a super peer, or a machine that had not joined yet
	}
	told := plural(l.PeersTold, "peer") + " told"
	switch {
	case l.Published && l.Withdrawn:
		return "left cleanly: contact withdrawn, " + told
	case l.Published:
		return fmt.Sprintf("left, but the contact could not be withdrawn (%s): others may try to reach this machine until %s; %s",
			plain(l.Error), l.ContactEnds.UTC().Format("2006-01-02 15:04:05 MST"), told)
	case l.Error != "":
		return "left, but not everybody could be told (" + plain(l.Error) + ")"
	}
	return "left cleanly: no contact was published, " + told
}
