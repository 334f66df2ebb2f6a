//go:build linux

package main

import (
	"fmt"
	"os"
)

func main() {
	var err error
	switch {
	case os.Getpid() == 1:
		err = initialise()
	case len(os.Args) == 3 && os.Args[1] == "hold":
		hold(os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "echo":
		err = echo(os.Args[2])
	default:
		err = fmt.Errorf("agent: usage: agent hold PORT | agent echo PORT, or run it as init")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
