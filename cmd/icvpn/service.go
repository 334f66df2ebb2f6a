package main

import "github.com/spf13/cobra"

func newService(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "service", Short: "Create a service, change its super peers, group key and release keys, list services"}
	cmd.AddCommand(newServiceCreate(a), newServiceSuper(a), newServiceEpoch(a), newServiceUpdates(a), newServiceList(a), newServiceShow(a))
	return cmd
}

func newServiceCreate(a *app) *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use:   "create NAME --super HOST:PORT [flags]",
		Short: "Make the keys, tokens and hand-overs of a new service",
		Long: "create makes a new service: the owner's key, the signed description of the service, one token for each\n" +
			"role and one sealed hand-over with its configuration for each super peer. It writes them to a new\n" +
			"directory, contacts nobody, and prints what to do next.\n\n" +
			"A rule of --allow is FROM:TO, FROM:TO:PROTOCOL or FROM:TO:PROTOCOL/PORT, where FROM and TO are roles,\n" +
			"PROTOCOL is tcp, udp or icmp and PORT a number or a range such as 8000-8080. FROM may begin\n" +
			"conversations with TO, answers are always let through. Without --allow and --policy every machine\n" +
			"may reach every other.\n\n" +
			"A machine has the label role of its token. With --label-scope zone=eu,us it may ask for zone=eu or\n" +
			"zone=us as well, by icvpn up --labels zone=eu; rules of a --policy file may speak of it.\n\n" +
			"The first two super peers get the ABE master key, which makes keys for any labels and opens all that is\n" +
			"in the directory; --authorities says how many get it. The others admit machines with keys that those\n" +
			"make for them, so a stolen disk of theirs opens less.\n\n" +
			"With --universe it makes a universal overlay, in which super peers of several operators show each other\n" +
			"their services. Its token goes to those operators, who give it to --join-universe.",
		Example: "  icvpn service create shop --role web --role app --role db \\\n" +
			"      --allow web:app --allow app:db:tcp/5432 \\\n" +
			"      --super 198.51.100.4:4500 --super 203.0.113.9:4500",
		Args: exactArgs("NAME"),
	}
	fs := cmd.Flags()
	fs.StringVar(&f.cidr, "cidr", "10.42.0.0/16", "IPv4 addresses of the network, a private `PREFIX`")
	fs.StringArrayVar(&f.roles, "role", nil, "`NAME` of a role of machines; repeat it for each; default: member")
	fs.StringArrayVar(&f.scopes, "label-scope", nil, "`KEY=VALUE,...` that machines may ask for with --labels, * for any value; repeat it for each key")
	fs.StringArrayVar(&f.allow, "allow", nil, "`RULE` that lets one role reach another; repeat it for each")
	fs.StringVar(&f.policy, "policy", "", "`FILE` with the policy, YAML, instead of --allow")
	fs.StringArrayVar(&f.supers, "super", nil, "`HOST:PORT` of a super peer as others reach it; repeat it for each")
	fs.IntVar(&f.authorities, "authorities", defaultAuthorities, "`NUMBER` of super peers, the first ones, that get the ABE master key; the others are given keys by them")
	fs.BoolVar(&f.universe, "universe", false, "make a universal overlay, whose members are super peers of several operators")
	fs.StringVar(&f.join, "join-universe", "", "`FILE` with the token of a universal overlay that the super peers join")
	fs.StringVar(&f.out, "out", "", "new `DIR` for the files; default: NAME")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o, err := f.options(args[0])
		if err != nil {
			return err
		}
		ctx, stop := interruptible(cmd.Context(), a.stderr)
		defer stop()
		return a.engine.create(ctx, o, a.stdout)
	}
	return cmd
}
