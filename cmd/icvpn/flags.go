package main

import (
	"slices"

	"github.com/spf13/cobra"

	"icvpn/internal/config"
)

// configFlags are the flags of a command that reads a configuration: --config
// and one for each of some fields.
type configFlags struct {
	file  string
	given map[string]string // by field key
}

// bindConfig adds the flags to cmd.
func bindConfig(cmd *cobra.Command, fields []config.Field) *configFlags {
	f := &configFlags{given: map[string]string{}}
	cmd.Flags().StringVar(&f.file, "config", "", "`FILE` with the configuration, YAML; default: ICVPN_CONFIG")
	for _, field := range fields {
		usage := field.Doc + "; default: " + field.Default
		cmd.Flags().Var(&fieldFlag{field, f.given}, field.Flag(), usage)
	}
	return f
}

// bindSocket adds the flags of a command that asks the running process.
func bindSocket(cmd *cobra.Command) *configFlags {
	fields := slices.DeleteFunc(config.PeerFields(), func(f config.Field) bool {
		return f.Key != "control_socket" && f.Key != "state_dir"
	})
	return bindConfig(cmd, fields)
}

// source returns where the configuration comes from.
func (f *configFlags) source(a *app) config.Source {
	file := f.file
	if file == "" {
		file, _ = a.env("ICVPN_CONFIG")
	}
	return config.Source{File: file, Env: a.env, Flags: f.given}
}

// fieldFlag is the pflag.Value of one field. It only collects: config checks.
type fieldFlag struct {
	field config.Field
	given map[string]string
}

// Set keeps the last value; values of lists and mappings add up.
func (f *fieldFlag) Set(text string) error {
	if f.field.Kind == config.List || f.field.Kind == config.OneOrMore || f.field.Kind == config.Mapping {
		if before, ok := f.given[f.field.Key]; ok {
			text = before + "," + text
		}
	}
	f.given[f.field.Key] = text
	return nil
}

// String returns the default for the help text; usage already names it.
func (f *fieldFlag) String() string { return "" }

// Type returns the name of the value in the help text.
func (f *fieldFlag) Type() string { return f.field.Arg }
