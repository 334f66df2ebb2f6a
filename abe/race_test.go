//go:build race

package abe

func init() { raceEnabled = true }
