package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
)

func newSuperUpdate(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "update [flags] FILE",
		Short: "Give a running super peer what the service's owner has signed since",
		Long: "update has a running super peer read FILE, which icvpn service epoch writes: the owner's description of the\n" +
			"service, policy and group key numbers. What is newer is in force at once, and the super peer hands it to the\n" +
			"others and to the machines. FILE holds no secret: every document in it counts by the owner's signature.",
		Example: "  icvpn super update shop/update",
		Args:    exactArgs("FILE"),
	}
	flags := bindState(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.superUpdate(cmd.Context(), flags, args[0]) }
	return cmd
}

func (a *app) superUpdate(ctx context.Context, flags *configFlags, file string) error {
	c, err := a.superClient(flags)
	if err != nil {
		return err
	}
	if file, err = filepath.Abs(file); err != nil {
		return err
	}
	done, err := c.Update(ctx, file)
	if err != nil {
		return a.explainSuper(c, err)
	}
	for _, d := range done.Documents {
		what := "is known already"
		if d.Newer {
			what = "is in force"
		}
		fmt.Fprintf(a.stdout, "%s: %s of sequence number %d %s\n", printable(done.Name), d.Type, d.Sequence, what)
	}
	return nil
}
