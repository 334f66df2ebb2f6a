//go:build !linux

package manual

import (
	"context"
	"errors"
	"net/netip"
)

func pathTo(context.Context, netip.Addr, netip.AddrPort) (local netip.Addr, mtu int, err error) {
	return local, 0, errors.ErrUnsupported
}
