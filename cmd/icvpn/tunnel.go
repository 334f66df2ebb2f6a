package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"icvpn/internal/config"
	"icvpn/internal/manual"
)

// tunnelFlags are those of icvpn tunnel.
type tunnelFlags struct {
	file                string
	iproute2, wireshark bool
	stats               time.Duration
	logLevel, logFormat string
}

func newTunnel(a *app) *cobra.Command {
	f := &tunnelFlags{}
	cmd := &cobra.Command{
		Use:   "tunnel --config FILE [flags]",
		Short: "Run ESP tunnels from given keys, without a service",
		Long: "tunnel carries traffic between this machine and others in standard IPsec ESP in UDP (RFC 4303,\n" +
			"RFC 3948) under keys that a file names: manual keying (RFC 4301, Section 4.5). Nobody is asked for\n" +
			"admission, nobody is looked up, no keys are agreed; the other end is another icvpn tunnel or a Linux\n" +
			"kernel. It runs in the foreground until a signal. Counters are printed at the end and on SIGUSR1.\n\n" +
			"The key files that FILE names must be of mode 0600, and so must FILE itself if keys stand in it.\n" +
			"docs/manual-keying.md describes FILE.",
		Example: "  icvpn tunnel --config sa.yaml --stats 10s\n" +
			"  icvpn tunnel --config sa.yaml --print-iproute2 | ssh root@198.51.100.7 sh",
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.tunnel(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.file, "config", "", "`FILE` with the SAs, YAML")
	flags.BoolVar(&f.iproute2, "print-iproute2", false, "print the commands that make a Linux kernel the other end, keys included, and end")
	flags.BoolVar(&f.wireshark, "print-wireshark", false, "print lines for Wireshark's esp_sa table, keys included, and end")
	flags.DurationVar(&f.stats, "stats", 0, "print counters every `INTERVAL`, such as 10s; default: at the end and on SIGUSR1")
	flags.StringVar(&f.logLevel, "log-level", "info", "least `LEVEL` that is logged: debug, info, warn or error")
	flags.StringVar(&f.logFormat, "log-format", "text", "`FORM` of the log: text or json")
	return cmd
}

func (a *app) tunnel(ctx context.Context, f *tunnelFlags) error {
	log, err := f.log()
	if err != nil {
		return err
	}
	switch {
	case f.file == "":
		return usageErrorf("--config FILE is missing; docs/manual-keying.md has an example")
	case f.iproute2 && f.wireshark:
		return usageErrorf("--print-iproute2 and --print-wireshark exclude each other")
	case f.stats != 0 && f.stats < time.Second:
		return usageErrorf("--stats %v is too often; use 1s or more", f.stats)
	}
	c, err := manual.Load(f.file)
	if err != nil {
		return err
	}
	defer c.Wipe()
	switch {
	case f.iproute2:
		return c.IPRoute2(ctx, a.stdout)
	case f.wireshark:
		return c.Wireshark(ctx, a.stdout)
	}
	ctx, stop := interruptible(ctx, a.stderr)
	defer stop()
	show, ended := onUSR1()
	defer ended()
	oneProcessor(len(c.Tunnels))
	return asked(ctx, manual.Run(ctx, &c, f.file, manual.Options{
		Log: a.logger(log), Counters: a.stdout, Every: f.stats, Show: show,
	}))
}

// oneProcessor keeps a single tunnel on a machine of two processors to one of them:
// handing packets from one to the other costs more there than working on both
// brings, since the kernel's half of the work and who uses the tunnel need the
// other (docs/performance.md). GOMAXPROCS, if set, is the user's word.
func oneProcessor(tunnels int) {
	if tunnels == 1 && runtime.GOMAXPROCS(0) == 2 && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
}

// log checks the two flags about the log, in the words of other commands.
func (f *tunnelFlags) log() (c config.Log, err error) {
	level, problem, wayOut := config.ParseLevel(f.logLevel)
	if problem != "" {
		return c, usageErrorf("--log-level %s; %s", problem, wayOut)
	}
	if problem, wayOut := config.CheckFormat(f.logFormat); problem != "" {
		return c, usageErrorf("--log-format %s; %s", problem, wayOut)
	}
	return config.Log{Level: level, Format: f.logFormat}, nil
}

// onUSR1 returns a channel on which something arrives at each SIGUSR1, until
// stop is called.
func onUSR1() (show <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR1)
	return c, func() { signal.Stop(c) }
}
