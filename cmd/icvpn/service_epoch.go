package main

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"icvpn/internal/id"
	"icvpn/internal/owner"
)

func newServiceEpoch(a *app) *cobra.Command {
	var revoke []string
	var now bool
	in := owner.DefaultEpochDelay
	cmd := &cobra.Command{
		Use:   "epoch DIR [flags]",
		Short: "Change the group key of the service that was made in DIR, and put machines out",
		Long: "epoch signs that the service gets another group key. It contacts nobody and makes no key: it writes what it\n" +
			"signed to update in DIR, for icvpn super update on one super peer, which computes the key from the one\n" +
			"before and hands the news on. Machines fetch the key before it comes into force, each at a time of its own,\n" +
			"and no traffic is cut. Machines that were off meanwhile get it when they come back.\n\n" +
			"With --revoke machines are put out: no super peer admits or renews them, nobody talks to them any more, and\n" +
			"under the new key they read nothing. Their PIDs are in icvpn peers --json and in the logs of super peers.\n\n" +
			"With --now the key changes as soon as the super peers hear of it. Machines are cut off until they have heard,\n" +
			"too, some seconds to minutes: it is for a machine whose keys are in wrong hands at this moment.",
		Example: "  icvpn service epoch shop --revoke 3f0a9c1e5b7d2846f1903ac58e67b24d10c9fa35",
		Args:    exactArgs("DIR"),
	}
	fs := cmd.Flags()
	fs.StringArrayVar(&revoke, "revoke", nil, "`PID` of a machine to put out; repeat it for each")
	fs.DurationVar(&in, "in", in, "`TIME` until the new key comes into force, 15m to 168h")
	fs.BoolVar(&now, "now", false, "emergency: at once")
	cmd.MarkFlagsMutuallyExclusive("in", "now")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		machines, err := parsePIDs(revoke)
		if err != nil {
			return err
		}
		if now {
			in = 0
		} else if in <= 0 {
			return usageErrorf("--in %v is not in the future; for an emergency use --now", in)
		}
		return a.announce(args[0], func(secret []byte) (*owner.News, error) {
			if len(machines) == 0 {
				return owner.NextEpoch(secret, in, a.now())
			}
			return owner.Revoke(secret, machines, in, a.now())
		})
	}
	return cmd
}

// parsePIDs reads PIDs of 40 hexadecimal digits.
func parsePIDs(texts []string) (all []id.ID, err error) {
	for _, text := range texts {
		pid, err := id.Parse(text)
		if err != nil {
			return nil, usageErrorf("--revoke %q is no PID of 40 hexadecimal digits; see icvpn peers --json", text)
		}
		all = append(all, pid)
	}
	return all, nil
}

// announce has the owner sign news, writes them to DIR and says what to do next.
func (a *app) announce(dir string, sign func(secret []byte) (*owner.News, error)) error {
	dir = filepath.Clean(dir)
	secret, err := owner.Secret(dir)
	if err != nil {
		return err
	}
	defer clear(secret)
	n, err := sign(secret)
	if err != nil {
		return err
	}
	if err := n.Write(dir); err != nil {
		return err
	}
	n.Explain(a.stdout, dir)
	return nil
}
