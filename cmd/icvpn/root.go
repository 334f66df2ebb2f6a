package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"icvpn/internal/config"
)

const (
	groupRun   = "run"
	groupAsk   = "ask"
	groupSetUp = "setup"
)

// newRoot returns the tree of commands.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "icvpn",
		Short: "One private network for the machines of a cloud service",
		Long: "icvpn gives the machines of a cloud service, at whatever providers they run, one private network.\n" +
			"A machine needs this program and one small token.\n\n" + exitHelp,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageErrorf("%s; see %s --help", err, cmd.CommandPath())
	})
	root.AddGroup(
		&cobra.Group{ID: groupRun, Title: "Run:"},
		&cobra.Group{ID: groupAsk, Title: "Ask the running process:"},
		&cobra.Group{ID: groupSetUp, Title: "Set up:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, cmd := range cmds {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	add(groupRun, newUp(a), newSuper(a), newTunnel(a), newDemo(a), newSim(a))
	add(groupAsk, newStatus(a), newPeers(a), newPing(a), newDown(a))
	add(groupSetUp, newService(a), newRelease(a), newConfig(a))
	root.AddCommand(newVersion(a), newEnvironment())
	return root
}

// unknownCommand complains about a command that does not exist in one sentence,
// before its flags are taken for flags of its parent.
func unknownCommand(root *cobra.Command, args []string) error {
	if len(args) > 0 && strings.HasPrefix(args[0], "__") {
		return nil // a shell asks for completions
	}
	cmd, rest, _ := root.Find(args) // of no command it returns root
	if !cmd.HasSubCommands() || len(rest) == 0 || strings.HasPrefix(rest[0], "-") {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	wayOut := "see " + cmd.CommandPath() + " --help"
	if near := cmd.SuggestionsFor(rest[0]); len(near) > 0 {
		wayOut = fmt.Sprintf("did you mean %q?", near[0])
	}
	return usageErrorf("unknown command %q for %q; %s", rest[0], cmd.CommandPath(), wayOut)
}

// exactArgs is cobra.ExactArgs with a sentence that names what is missing.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usageErrorf("%s is missing; use: %s", names[len(args)], cmd.UseLine())
		case len(args) > len(names):
			return usageErrorf("unexpected argument %q; use: %s", args[len(names)], cmd.UseLine())
		}
		return nil
	}
}

// newEnvironment is a topic of `icvpn help`, not a command.
func newEnvironment() *cobra.Command {
	var b strings.Builder
	b.WriteString("Environment variables stand between flags, which override them, and the configuration\n" +
		"file, which they override. Lists are \"a,b\", labels \"k=v,k=v\". Empty means not set.\n\n")
	t := &table{}
	t.row("ICVPN_CONFIG", "the configuration file")
	t.row("ICVPN_TOKEN", "the bootstrap token itself; ICVPN_TOKEN_FILE overrides it")
	seen := map[string]bool{}
	for _, f := range append(config.PeerFields(), config.SuperFields()...) {
		if !seen[f.Key] {
			seen[f.Key] = true
			t.row(f.Env(), f.Doc)
		}
	}
	t.row("NO_COLOR", "any value: no colours on terminals")
	t.writeTo(&b)
	return &cobra.Command{Use: "environment", Short: "Environment variables", Long: strings.TrimRight(b.String(), "\n")}
}
