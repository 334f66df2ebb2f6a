// Package fleet runs processes of the icvpn binary in the hosts of a lab, for
// the demo and the benchmarks: each with a state directory and a log of its own,
// asked over its control socket, as an operator would.
//
//	Fleet.Start ─> Machine ─> Await (control socket) ─> ... ─> Stop (SIGTERM)
//
// Machines end with the lab at the latest. Non-goal: tests; test/e2e has machines
// that fail a test.
package fleet
