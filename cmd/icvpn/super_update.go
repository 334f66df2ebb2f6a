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
		Short: "Give a running super peer what the service's owner has signed since, or a release manifest",
		Long: "update has a running super peer read FILE, which icvpn service epoch and updates write: the owner's\n" +
			"description of the service, policy and group key numbers; or a manifest of icvpn release sign. What is newer\n" +
			"is in force at once, and the super peer hands it to the others and to the machines. FILE holds no secret:\n" +
			"every document in it counts by its signatures, the owner's or those of release keys that the policy names.",
		Example: "  icvpn super update shop/update\n  icvpn super update 1.2.0.manifest",
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
