package main

import (
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"icvpn/internal/owner"
)

func newServiceSuper(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "super", Short: "Add or remove a super peer of a service"}
	cmd.AddCommand(
		changeSupers(a, owner.AddSuper, &cobra.Command{
			Use:   "add DIR HOST:PORT",
			Short: "Add a super peer to the service that was made in DIR",
			Long: "add signs the next description of the service, with one more super peer and addresses of its own for the\n" +
				"machines it will admit, and writes the new super peer's files to DIR beside the others. It contacts\n" +
				"nobody: the new super peer hands the description to the others when it starts, and they to the machines.\n" +
				"Nothing needs a restart. Tokens in DIR name the new super peer from then on; older ones stay good.",
			Example: "  icvpn service super add shop 203.0.113.9:4500",
		}),
		changeSupers(a, owner.RemoveSuper, &cobra.Command{
			Use:   "remove DIR HOST:PORT",
			Short: "Remove a super peer from the service that was made in DIR",
			Long: "remove signs the next description of the service, without that super peer. What it vouched for ends: whoever\n" +
				"has the new description refuses credentials that it issued, and machines that it admitted are admitted by\n" +
				"another one, with another IPv4 address. It contacts nobody: one of the other super peers is given a new\n" +
				"hand-over, and hands the description on. The addresses of the removed one are nobody's for two days.",
			Example: "  icvpn service super remove shop 203.0.113.9:4500",
		}),
	)
	return cmd
}

// changeSupers completes a command that signs a change.
func changeSupers(a *app, change func(secret []byte, endpoint string, now time.Time) (*owner.Change, error), cmd *cobra.Command) *cobra.Command {
	cmd.Args = exactArgs("DIR", "HOST:PORT")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		endpoint, problem, wayOut := superAddress(args[1])
		if problem != "" {
			return usageErrorf("HOST:PORT: %s; %s", problem, wayOut)
		}
		dir := filepath.Clean(args[0])
		secret, err := owner.Secret(dir)
		if err != nil {
			return err
		}
		defer clear(secret)
		c, err := change(secret, endpoint, a.now())
		if err != nil {
			return err
		}
		if err := c.Write(dir); err != nil {
			return err
		}
		c.Explain(a.stdout, dir)
		return nil
	}
	return cmd
}
