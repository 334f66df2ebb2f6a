package main

import "github.com/spf13/cobra"

func newDemo(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show the whole path on this machine: two clouds, six machines, one network",
		Long: "demo builds two small clouds out of network namespaces, runs a service of six machines across them\n" +
			"and shows what happens from the token to the first packet. It needs Linux, and root or user\n" +
			"namespaces. Nothing stays behind, also after Ctrl-C.",
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context(), a.stderr)
			defer stop()
			return a.engine.demo(ctx, a.stdout)
		},
	}
}
