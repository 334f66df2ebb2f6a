package main

import (
	"cmp"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"icvpn/internal/id"
	"icvpn/internal/owner"
	"icvpn/internal/service"
)

// defaultReleaseLife is how long a manifest says what is newest: who signs for a
// channel does so again at least as often.
const defaultReleaseLife = 30 * 24 * time.Hour

func newRelease(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "release", Short: "Make release keys, sign and show release manifests"}
	cmd.AddCommand(newReleaseKey(a), newReleaseSign(a), newReleaseCosign(a), newReleaseShow(a))
	return cmd
}

func newReleaseKey(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key FILE",
		Short: "Make a release key",
		Long: "key makes a key that signs release manifests: the secret half in FILE, of mode 0600, and the public half in\n" +
			"FILE.pub. The owner of a service names that to icvpn service updates. Keep FILE offline.",
		Example: "  icvpn release key alice.key",
		Args:    exactArgs("FILE"),
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		public, err := owner.NewReleaseKey(args[0])
		if err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "Release key %s: keep %s offline, and give %s.pub to the owner of the service.\n", public, args[0], args[0])
		return nil
	}
	return cmd
}

// releaseFlags are the flags of sign as they were given.
type releaseFlags struct {
	keys             []string
	service, out     string
	channel, version string
	minimum, notes   string
	sequence         uint64
	life             time.Duration
}

func newReleaseSign(a *app) *cobra.Command {
	f := releaseFlags{life: defaultReleaseLife}
	cmd := &cobra.Command{
		Use:   "sign --key FILE --service ID --version VERSION [flags] ARTEFACT...",
		Short: "Sign a manifest of a release of the program",
		Long: "sign writes a manifest: which version machines of a service are to run, until when that is known to be the\n" +
			"newest, and size and hash of each ARTEFACT, a file named NAME-OS-ARCH. It contacts nobody: icvpn super update\n" +
			"on one super peer of the service hands the manifest on. Machines show it in icvpn status; they update nothing\n" +
			"by themselves.\n\n" +
			"Manifests are numbered, and a lower number is refused. The number is the time in Unix seconds unless\n" +
			"--sequence says otherwise. Where the owner wants several signatures, repeat --key, or have others add theirs\n" +
			"with icvpn release cosign. Sign again before the manifest ends, also without a new version: machines take\n" +
			"one that has ended for a sign that newer ones are kept from them.",
		Example: "  icvpn release sign --key alice.key --service 3f0a9c1e5b7d2846f1903ac58e67b24d10c9fa35 \\\n" +
			"      --version 1.2.0 --minimum 1.0.0 dist/icvpn-linux-amd64 dist/icvpn-linux-arm64",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageErrorf("ARTEFACT is missing; use: %s", cmd.UseLine())
			}
			return nil
		},
	}
	fs := cmd.Flags()
	fs.StringArrayVar(&f.keys, "key", nil, "`FILE` with a release key; repeat it for each")
	fs.StringVar(&f.service, "service", "", "`ID` of the service, 40 hexadecimal digits")
	fs.StringVar(&f.channel, "channel", "stable", "`NAME` of the channel")
	fs.StringVar(&f.version, "version", "", "`VERSION` of the release, as 1.2.0")
	fs.StringVar(&f.minimum, "minimum", "", "`VERSION` below which nobody should run; default: 0.0.0")
	fs.StringVar(&f.notes, "notes", "", "https `ADDRESS` with what is new")
	fs.DurationVar(&f.life, "valid", f.life, "`TIME` until another manifest must have come, at most 8784h")
	fs.Uint64Var(&f.sequence, "sequence", 0, "`NUMBER` of the manifest; default: the time in Unix seconds")
	fs.StringVar(&f.out, "out", "", "`FILE` for the manifest; default: VERSION.manifest")
	cmd.RunE = func(_ *cobra.Command, args []string) error { return a.releaseSign(f, args) }
	return cmd
}

func (a *app) releaseSign(f releaseFlags, artefacts []string) error {
	sid, err := id.Parse(f.service)
	switch {
	case err != nil:
		return usageErrorf("--service %q is no ServiceID of 40 hexadecimal digits; icvpn status shows it in brackets", f.service)
	case len(f.keys) == 0:
		return usageErrorf("--key is missing; make one with icvpn release key")
	case f.version == "":
		return usageErrorf("--version is missing; give it as 1.2.0")
	}
	now := a.now()
	r := service.Release{
		Service: sid, Seq: cmp.Or(f.sequence, uint64(now.Unix())), Issued: now.Unix(), Expires: now.Add(f.life).Unix(),
		Channel: f.channel, Version: f.version, Minimum: cmp.Or(f.minimum, "0.0.0"), Notes: f.notes,
	}
	for _, file := range artefacts {
		of, err := owner.Artefact(file)
		if err != nil {
			return err
		}
		r.Artefacts = append(r.Artefacts, of)
	}
	s, err := service.NewRelease(r)
	if err != nil {
		return err
	}
	return a.signRelease(s, f.keys, cmp.Or(f.out, f.version+".manifest"))
}

func newReleaseCosign(a *app) *cobra.Command {
	var keys []string
	cmd := &cobra.Command{
		Use:   "cosign --key FILE MANIFEST",
		Short: "Add a signature to a release manifest",
		Long: "cosign signs what stands in MANIFEST, with a release key of one's own. Look at it with icvpn release show\n" +
			"before, and compare the hashes with a build of your own.",
		Example: "  icvpn release cosign --key bob.key 1.2.0.manifest",
		Args:    exactArgs("MANIFEST"),
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "`FILE` with a release key; repeat it for each")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if len(keys) == 0 {
			return usageErrorf("--key is missing; make one with icvpn release key")
		}
		s, _, err := owner.ReadRelease(args[0])
		if err != nil {
			return err
		}
		return a.signRelease(s, keys, args[0])
	}
	return cmd
}

// signRelease adds signatures, writes the manifest and shows it.
func (a *app) signRelease(s service.Signed, keys []string, out string) error {
	for _, file := range keys {
		k, err := owner.ReadReleaseKey(file)
		if err == nil {
			s, err = s.SignRelease(k)
			clear(k)
		}
		if err != nil {
			return err
		}
	}
	if err := owner.WriteRelease(out, s); err != nil {
		return err
	}
	if err := a.showRelease(out); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "\nNext, on one super peer that runs (the file is no secret):\n  icvpn super update %s\n", out)
	return nil
}

func newReleaseShow(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show MANIFEST",
		Short: "Print what a release manifest says",
		Long:  "show prints what stands in MANIFEST and how many have signed it. It does not say whether they may: their\nkeys stand in the policy of the service.",
		Args:  exactArgs("MANIFEST"),
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error { return a.showRelease(args[0]) }
	return cmd
}

func (a *app) showRelease(file string) error {
	s, r, err := owner.ReadRelease(file)
	if err != nil {
		return err
	}
	printRelease(a.stdout, s, r)
	return nil
}

func printRelease(w io.Writer, s service.Signed, r *service.Release) {
	t := &table{}
	t.row("version", fmt.Sprintf("%s of channel %s, minimum %s", r.Version, r.Channel, r.Minimum))
	t.row("service", r.Service.String())
	t.row("sequence", fmt.Sprintf("%d, signed on %s, until %s", r.Seq, unix(r.Issued), unix(r.Expires)))
	t.row("signatures", fmt.Sprintf("%d, not verified", len(s.Sigs)))
	if r.Notes != "" {
		t.row("notes", r.Notes)
	}
	for _, of := range r.Artefacts {
		t.row(of.OS+"/"+of.Arch, fmt.Sprintf("%x, %d bytes", of.SHA256, of.Size))
	}
	t.writeTo(w)
}

func unix(t int64) string { return time.Unix(t, 0).UTC().Format("2006-01-02 15:04 MST") }

func newServiceUpdates(a *app) *cobra.Command {
	var u service.Updates
	var files []string
	var none bool
	cmd := &cobra.Command{
		Use:   "updates DIR --key FILE [flags]",
		Short: "Name the release keys of the service that was made in DIR",
		Long: "updates signs a policy that says whose release manifests count in the service, and of which channel, and\n" +
			"writes it for icvpn super update on one super peer. It takes the place of what was named before: a manifest\n" +
			"signed with a key that is not named any more counts no longer. Super peers hear of it within a minute,\n" +
			"machines when they renew. FILE is the public half that icvpn release key wrote; a release key is neither the\n" +
			"owner's nor a super peer's. Programs of a version that knows of no release keys refuse such a policy.",
		Example: "  icvpn service updates shop --channel stable --key alice.key.pub --key bob.key.pub --threshold 2",
		Args:    exactArgs("DIR"),
	}
	fs := cmd.Flags()
	fs.StringArrayVar(&files, "key", nil, "`FILE` with the public half of a release key; repeat it for each, at most 8")
	fs.StringVar(&u.Channel, "channel", "stable", "`NAME` of the channel that the machines follow")
	fs.IntVar(&u.Threshold, "threshold", 1, "`NUMBER` of these keys that must have signed a manifest")
	fs.BoolVar(&none, "none", false, "name no keys any more: no manifest counts")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if none == (len(files) > 0) {
			return usageErrorf("give --key for each release key, or --none")
		}
		for _, file := range files {
			k, err := owner.ReadPublicReleaseKey(file)
			if err != nil {
				return err
			}
			u.Keys = append(u.Keys, k)
		}
		if none {
			u = service.Updates{}
		}
		return a.announce(args[0], func(secret []byte) (*owner.News, error) { return owner.SetUpdates(secret, u, a.now()) })
	}
	return cmd
}
