package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"icvpn/internal/config"
)

func newSuper(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "super [flags]",
		Short: "Run a super peer, which admits machines to its services",
		Long: "super runs a super peer: it admits machines, keeps the directory of its services and stores for the\n" +
			"overlay. It runs in the foreground until a signal; a second one ends it at once.",
		Example: "  icvpn super --config super-1.yaml",
		Args:    exactArgs(),
	}
	cmd.AddCommand(newSuperBackup(a), newSuperRestore(a), newSuperUpdate(a))
	flags := bindConfig(cmd, config.SuperFields())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.super(cmd, flags) }
	return cmd
}

func (a *app) super(cmd *cobra.Command, flags *configFlags) error {
	c, err := config.LoadSuper(flags.source(a))
	if err != nil {
		return err
	}
	ctx, stop := interruptible(cmd.Context(), a.stderr)
	defer stop()
	return asked(ctx, a.engine.super(ctx, c, a.logger(c.Log)))
}

// asked turns the end that a signal asked for into success.
func asked(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
