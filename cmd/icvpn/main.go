package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"icvpn/internal/config"
)

func main() {
	a := &app{
		engine: linked(),
		stdout: os.Stdout,
		stderr: os.Stderr,
		env:    os.LookupEnv,
		now:    time.Now,
	}
	a.colourOut = wantColour(os.Stdout, a.env)
	a.colourErr = wantColour(os.Stderr, a.env)
	a.terminalErr = term.IsTerminal(int(os.Stderr.Fd()))
	os.Exit(a.main(os.Args[1:]))
}

// app is the program with everything that a test replaces.
type app struct {
	engine         engine
	stdout, stderr io.Writer
	env            func(name string) (string, bool)
	now            func() time.Time
	// colourOut and colourErr say whether the streams take colours,
	// terminalErr whether a person reads the log as it is written.
	colourOut, colourErr, terminalErr bool
}

// main runs one command line, says what went wrong and returns the exit code.
func (a *app) main(args []string) int {
	err := a.run(context.Background(), args)
	if err != nil {
		fmt.Fprintf(a.stderr, "icvpn: %s\n", sentence(err))
	}
	return a.exitCode(err)
}

func (a *app) run(ctx context.Context, args []string) error {
	if err := refuseToken(args); err != nil {
		return err
	}
	root := newRoot(a)
	root.SetArgs(args)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd(args...)
	if err := unknownCommand(root, args); err != nil {
		return err
	}
	return root.ExecuteContext(ctx)
}

// refuseToken looks at all arguments before anything else does, because the
// usual complaint about a stray argument would repeat the token.
func refuseToken(args []string) error {
	for _, arg := range args {
		if config.HoldsToken(arg) || arg == "--token" || strings.HasPrefix(arg, "--token=") {
			return usageErrorf("a token on the command line can be read by every user of this machine; " +
				"write it to a file of mode 0600 and give that with --token-file FILE or ICVPN_TOKEN_FILE, " +
				"or set ICVPN_TOKEN (and have a token that others may have seen replaced)")
		}
	}
	return nil
}

func wantColour(f *os.File, env func(string) (string, bool)) bool {
	if v, _ := env("NO_COLOR"); v != "" { // no-color.org: any value
		return false
	}
	if v, _ := env("TERM"); v == "dumb" {
		return false
	}
	return term.IsTerminal(int(f.Fd()))
}
