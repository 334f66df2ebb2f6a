//go:build race

package keyex

// slow divides the work of long tests under the race detector: a Machine has
// one goroutine, there is little to find.
const slow = 8
