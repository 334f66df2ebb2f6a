//go:build linux

// Package measure is what the benchmarks have in common: figures and the machine
// they are from, CPU time and memory of a process, echo requests, and a TCP
// stream between two hosts of a lab.
//
// Sender, receiver and pinger use blocking sockets on threads of their own, as
// separate programs would: with the runtime's poller between them and the kernel,
// a fast tunnel would be measured against the poller. Whoever runs several of
// them at once calls FreeThreads first.
//
// Non-goals: judging figures. A slow machine is no error.
package measure
