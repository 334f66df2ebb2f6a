package main

import (
	"errors"
	"fmt"

	"icvpn/internal/config"
	"icvpn/internal/control"
)

// Exit codes. They are an interface for scripts; docs/cli.md lists them.
const (
	exitOK         = 0
	exitFailure    = 1 // it was tried and did not work
	exitUsage      = 2 // command line, environment, configuration or token file
	exitRefused    = 3 // a super peer refused this machine, or the policy a ping
	exitNotRunning = 4 // no icvpn process to ask
	exitSignal     = 128
)

const exitHelp = `Exit codes:
  0  done
  1  tried, and it did not work
  2  command line, environment, configuration or token file is wrong
  3  refused: by a super peer, or by the service's policy
  4  no icvpn process is running to be asked
  128+N  ended at once by signal N, the second of its kind`

// usageError is a mistake on the command line.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usageErrorf(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// notRunningError says that there is nobody to ask, and how to change that.
type notRunningError struct{ socket, hint string }

func (e *notRunningError) Error() string {
	return fmt.Sprintf("no icvpn is running: nothing answers on %s; start it with icvpn up --token-file FILE%s", e.socket, e.hint)
}

func (a *app) exitCode(err error) int {
	var usage *usageError
	var conf *config.Error
	var notRunning *notRunningError
	var noSuper *noSuperError
	var remote *control.Error
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage), errors.As(err, &conf):
		return exitUsage
	case errors.As(err, &notRunning), errors.As(err, &noSuper):
		return exitNotRunning
	case a.engine.refused(err), errors.As(err, &remote) && remote.Code == control.CodeNotAllowed:
		return exitRefused
	}
	return exitFailure
}
