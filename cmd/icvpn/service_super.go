package main

import (
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"icvpn/internal/owner"
)

func newServiceSuper(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "super", Short: "Add, change or remove a super peer of a service"}
	cmd.AddCommand(
		changeSupers(a, owner.AddSuper, &cobra.Command{
			Use:   "add DIR HOST:PORT",
			Short: "Add a super peer to the service that was made in DIR",
			Long: "add signs the next description of the service, with one more super peer and addresses of its own for the\n" +
				"machines it will admit, and writes the new super peer's files to DIR beside the others. It contacts\n" +
				"nobody: the new super peer hands the description to the others when it starts, and they to the machines.\n" +
				"Nothing needs a restart. Tokens in DIR name the new super peer from then on; older ones stay good.\n" +
				"It gets the ABE master key only if fewer than two others have it.",
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
		newSuperAuthority(a),
	)
	return cmd
}

func newSuperAuthority(a *app) *cobra.Command {
	take := false
	cmd := changeSupers(a, func(secret []byte, endpoint string, now time.Time) (*owner.Change, error) {
		if take {
			return owner.TakeMaster(secret, endpoint, now)
		}
		return owner.GiveMaster(secret, endpoint, now)
	}, &cobra.Command{
		Use:   "authority DIR HOST:PORT",
		Short: "Give a super peer the ABE master key, or with --take make it do without",
		Long: "authority signs the next description of the service, in which that super peer may make attribute keys, and\n" +
			"a new hand-over for it with the ABE master key; with --take neither. It contacts nobody: the super peer is\n" +
			"restarted with the new hand-over, and hands the description on. Whoever copied the key before still has it.",
		Example: "  icvpn service super authority shop 203.0.113.9:4500\n  icvpn service super authority --take shop 203.0.113.9:4500",
	})
	cmd.Flags().BoolVar(&take, "take", false, "it is to have the key no more")
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
