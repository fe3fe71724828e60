//go:build !linux

package pathmtu

import (
	"context"
	"errors"
	"net/netip"
)

func open(context.Context, netip.Addr, netip.Addr) (socket, error) {
	return nil, errors.ErrUnsupported
}
