//go:build !race

package keyex

const slow = 1
