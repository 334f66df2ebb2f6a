// Package arch holds no code: its test keeps the directions in which packages
// may import each other. ARCHITECTURE.md draws them.
//
//	cmd, bench, internal/demo ─> internal/process ─> internal/node, internal/superpeer
//	                                                     │ wire
//	                                                     v
//	siblings: esp  keyex  admission  abe  overlay  tun  internal/underlay
//	                                                     │ may use
//	                                                     v
//	                                           internal/id, internal/wire
//
// Rule A. A sibling imports no other sibling, and nothing of this module but
// its own subpackages, internal/id and internal/wire. So each can be read,
// tested and replaced alone; keyex returns key bytes, not an esp.SA.
//
// Rule B. Conductors (node, superpeer, process) and cmd are imported only from
// above: cmd, bench, demo, process, and tests.
//
// Rule C. Protocol cores open no socket or file, start no goroutine and read no
// clock, so that a test owns time and order: esp, keyex, admission, abe, the
// documents and rules under internal, and the overlay's table, store and codec.
package arch
