package main

import (
	"github.com/spf13/cobra"

	"icvpn/internal/config"
)

func newUp(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "up [flags]",
		Short: "Join the service and carry its traffic",
		Long: "up joins the service that the token belongs to and carries its traffic until it is told to\n" +
			"leave by a signal or by icvpn down. It runs in the foreground; a second signal ends it at once.\n\n" +
			"The token comes from the first of: --token-file, ICVPN_TOKEN_FILE, ICVPN_TOKEN, token_file in the\n" +
			"configuration. It is never an argument, because every user of a machine can read those.",
		Example: "  icvpn up --token-file /etc/icvpn/token\n  ICVPN_CONFIG=/etc/icvpn/peer.yaml icvpn up",
		Args:    exactArgs(),
	}
	flags := bindConfig(cmd, config.PeerFields())
	takeOver := cmd.Flags().Bool("take-over", false, "be the member again although another machine with this one's identity was admitted since; that one leaves")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.up(cmd, flags, *takeOver) }
	return cmd
}

func (a *app) up(cmd *cobra.Command, flags *configFlags, takeOver bool) error {
	c, err := config.LoadPeer(flags.source(a))
	if err != nil {
		return err
	}
	c.TakeOver = takeOver
	token, warning, err := config.ReadToken(c, a.env)
	if err != nil {
		return err
	}
	defer clear(token)
	log := a.logger(c.Log)
	if warning != "" {
		log.Warn("token not protected", "detail", warning)
	}
	ctx, stop := interruptible(cmd.Context(), a.stderr)
	defer stop()
	return asked(ctx, a.engine.peer(ctx, c, token, log))
}
