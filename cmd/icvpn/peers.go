package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"icvpn/internal/control"
)

func newPeers(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "peers [flags]",
		Short:   "List the other machines of the service",
		Long:    "peers lists the other machines of the service, how each is reached, and which ones the policy keeps apart from this one.",
		Example: "  icvpn peers\n  icvpn peers --json | jq -r '.peers[] | select(.state == \"up\") | .name'",
		Args:    exactArgs(),
	}
	flags := bindSocket(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, version 1")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.peers(cmd.Context(), flags, asJSON) }
	return cmd
}

func (a *app) peers(ctx context.Context, flags *configFlags, asJSON bool) error {
	c, err := a.client(flags)
	if err != nil {
		return err
	}
	list, err := c.Peers(ctx)
	switch {
	case err != nil:
		return a.explain(c, err)
	case asJSON:
		return a.printJSON(list)
	case len(list.Peers) == 0:
		fmt.Fprintln(a.stdout, "no other machine of the service is known yet")
		return nil
	}
	a.printPeers(list.Peers)
	names := control.Names{}
	if s, err := c.Status(ctx); err == nil && s.Role == control.RolePeer {
		names.Add(s.Name, s.PID) // the list is of the others
	}
	for _, p := range list.Peers {
		names.Add(p.Name, p.PID)
	}
	for _, w := range names.Warnings() {
		fmt.Fprintf(a.stdout, "%s: %s\n", palette(a.colourOut).yellow("warning"), printable(w))
	}
	return nil
}

func (a *app) printPeers(peers []control.Peer) {
	p := palette(a.colourOut)
	t := &table{right: map[int]bool{6: true, 7: true}}
	t.row(p.dim("NAME"), p.dim("ADDRESS"), p.dim("LABELS"), p.dim("TUNNEL"), p.dim("PATH"), p.dim("SUITE"),
		p.dim("RECEIVED"), p.dim("SENT"), p.dim("KEYS FROM"))
	for _, peer := range peers {
		t.row(orDash(peer.Name), orDash(addresses(peer.Address4)), orDash(labels(peer.Labels)), tunnelWord(p, peer),
			orDash(pathWord(peer.Path, peer.Route)), orDash(peer.Suite),
			byteCount(peer.RxBytes), byteCount(peer.TxBytes), a.ago(peer.LastHandshake))
	}
	t.writeTo(a.stdout)
	for _, peer := range peers {
		if !peer.Allowed && peer.Reachable != "" {
			fmt.Fprintf(a.stdout, "%s: %s\n", printable(peer.Name), printable(peer.Reachable))
		}
	}
}

func tunnelWord(p palette, peer control.Peer) string {
	switch {
	case !peer.Allowed:
		return p.dim("not allowed")
	case peer.State == control.TunnelUp:
		return p.green("up")
	case peer.State == control.TunnelConnecting:
		return p.yellow("connecting")
	}
	return "on demand"
}

func pathWord(path string, route control.Route) string {
	if path != "" && route == control.RouteRelayed {
		return path + " (relayed)"
	}
	return path
}
