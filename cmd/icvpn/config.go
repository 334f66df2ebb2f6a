package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"icvpn/internal/config"
)

func newConfig(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Print an example of a configuration, or check one"}
	cmd.AddCommand(newConfigExample(a), newConfigCheck(a))
	return cmd
}

func newConfigExample(a *app) *cobra.Command {
	return &cobra.Command{
		Use:       "example [peer|super]",
		Short:     "Print an annotated configuration",
		Long:      "example prints a complete annotated configuration, of a peer unless you ask for a super peer's.",
		Example:   "  icvpn config example > /etc/icvpn/peer.yaml",
		ValidArgs: []string{string(config.RolePeer), string(config.RoleSuper)},
		RunE: func(cmd *cobra.Command, args []string) error {
			role := config.RolePeer
			switch {
			case len(args) > 1:
				return usageErrorf("unexpected argument %q; use: %s", args[1], cmd.UseLine())
			case len(args) == 1 && args[0] != string(config.RolePeer) && args[0] != string(config.RoleSuper):
				return usageErrorf("%q is neither peer nor super", args[0])
			case len(args) == 1:
				role = config.Role(args[0])
			}
			fmt.Fprint(a.stdout, config.Example(role))
			return nil
		},
	}
}

func newConfigCheck(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Say whether a configuration is good",
		Long:  "check reads a configuration of a peer or of a super peer as icvpn up or icvpn super would, and says what is wrong with it.",
		Args:  exactArgs("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			role, err := config.Detect(args[0])
			if err != nil {
				return err
			}
			// The file alone: neither environment nor machine decide what it is.
			src := config.Source{File: args[0], Host: &config.Host{Root: true, Name: "host"}}
			word := "peer"
			if role == config.RoleSuper {
				word = "super peer"
				_, err = config.LoadSuper(src)
			} else {
				_, err = config.LoadPeer(src)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "%s is a good configuration of a %s\n", args[0], word)
			return nil
		},
	}
}
