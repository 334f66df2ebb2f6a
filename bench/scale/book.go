//go:build linux

package main

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"

	"icvpn/internal/id"
	"icvpn/internal/service"
)

// book has every credential that anybody was given, by whichever super peer.
type book struct {
	mu  sync.Mutex
	all []*service.Credential
}

func (b *book) enter(c *service.Credential) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, c)
}

// holders are the machines that were ever admitted.
func (b *book) holders() map[id.ID]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make(map[id.ID]bool, len(b.all))
	for _, c := range b.all {
		all[c.PID()] = true
	}
	return all
}

// admittedBy are the machines whose last credential a super peer gave.
func (b *book) admittedBy(issuer id.ID) (all []id.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	last := map[id.ID]id.ID{}
	for _, c := range b.all {
		last[c.PID()] = c.Issuer
	}
	for pid, by := range last {
		if by == issuer {
			all = append(all, pid)
		}
	}
	return all
}

// len is how many credentials there are.
func (b *book) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.all)
}

// twice counts the pairs of credentials of different machines that hold one
// address at one time.
func (b *book) twice() (pairs int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	byAddr := map[netip.Addr][]*service.Credential{}
	for _, c := range b.all {
		byAddr[c.Addr4()] = append(byAddr[c.Addr4()], c)
	}
	for _, cs := range byAddr {
		slices.SortFunc(cs, func(x, y *service.Credential) int { return cmp.Compare(x.NotBefore, y.NotBefore) })
		for i, x := range cs {
			for _, y := range cs[i+1:] {
				if y.NotBefore < x.NotAfter && x.PID() != y.PID() {
					pairs++
				}
			}
		}
	}
	return pairs
}
