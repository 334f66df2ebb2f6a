package main

import (
	"encoding/json"
	"errors"
	"os"

	"icvpn/internal/config"
	"icvpn/internal/control"
)

// client returns a client for the process that flags point at.
func (a *app) client(flags *configFlags) (*control.Client, error) {
	path, err := config.ControlSocket(flags.source(a))
	if err != nil {
		return nil, err
	}
	return control.NewClient(path), nil
}

// explain turns "nobody there" into what to do about it.
func (a *app) explain(c *control.Client, err error) error {
	if !errors.Is(err, control.ErrNotRunning) {
		return err
	}
	hint := ""
	if os.Geteuid() != 0 {
		hint = ", or ask as the user it runs as"
	}
	return &notRunningError{socket: c.Path(), hint: hint}
}

// printJSON prints v as it stands in docs/cli.md, indented.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
