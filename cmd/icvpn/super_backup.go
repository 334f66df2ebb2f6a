package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"icvpn/internal/config"
	"icvpn/internal/control"
	"icvpn/internal/process"
)

func newSuperBackup(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup [flags] FILE",
		Short: "Write a backup of a super peer's state, sealed as it is",
		Long: "backup writes members, leases and hand-over of a super peer to FILE, which must not exist. A running super\n" +
			"peer writes it itself, and goes on admitting. Everything in it stays sealed: keep the key, seal.key or your\n" +
			"own key file, in another place, for without it the backup is worth nothing.",
		Example: "  icvpn super backup super-1.backup",
		Args:    exactArgs("FILE"),
	}
	flags := bindState(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.superBackup(cmd.Context(), flags, args[0]) }
	return cmd
}

func (a *app) superBackup(ctx context.Context, flags *configFlags, file string) error {
	at, err := config.LoadSuperState(flags.source(a))
	if err != nil {
		return err
	}
	file, err = filepath.Abs(file)
	if err != nil {
		return err
	}
	done, err := control.NewClient(at.ControlSocket).Backup(ctx, file)
	if errors.Is(err, control.ErrNotRunning) {
		done, err = process.BackupStopped(at.StateDir, at.SealKeyFile, file)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "%s: %d bytes, sealed; keep its key elsewhere\n", printable(done.Path), done.Bytes)
	return nil
}

func newSuperRestore(a *app) *cobra.Command {
	o := process.RestoreOptions{}
	cmd := &cobra.Command{
		Use:   "restore [flags] FILE",
		Short: "Put a backup back into a super peer's state directory",
		Long: "restore puts a backup into a state directory that no process uses. The key that it was sealed under must be\n" +
			"there, as seal.key or by --seal-key-file. Members that the backup knows go on. New machines get no address\n" +
			"for a day and an hour, because nobody knows which ones were given after the backup; they turn to another\n" +
			"super peer meanwhile.",
		Example: "  icvpn super restore super-1.backup",
		Args:    exactArgs("FILE"),
	}
	flags := bindState(cmd)
	cmd.Flags().BoolVar(&o.Replace, "replace", false, "put it in the place of a ledger that is there; that one is kept under another name")
	cmd.Flags().BoolVar(&o.Moved, "moved", false, "the super peer was stopped before the backup and has admitted nobody since: do not wait")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		at, err := config.LoadSuperState(flags.source(a))
		if err != nil {
			return err
		}
		o.StateDir, o.KeyFile, o.File = at.StateDir, at.SealKeyFile, args[0]
		if err := process.Restore(o); err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "%s is restored; start the super peer\n", printable(at.StateDir))
		return nil
	}
	return cmd
}

// bindState adds the flags of a command that works on a super peer's state directory.
func bindState(cmd *cobra.Command) *configFlags {
	fields := slices.DeleteFunc(config.SuperFields(), func(f config.Field) bool {
		return f.Key != "control_socket" && f.Key != "state_dir" && f.Key != "seal_key_file"
	})
	return bindConfig(cmd, fields)
}
