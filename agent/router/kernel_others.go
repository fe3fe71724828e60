//go:build !linux

package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

// open fails: there are no Linux network namespaces here.
func (r *Routers) open() (world, func(), error) {
	if r.world != nil {
		return r.world, func() {}, nil
	}
	return nil, nil, fmt.Errorf("network namespaces: %w", errors.ErrUnsupported)
}

// kernelGround is not there on this system.
type kernelGround struct{ host, dir string }

// Ping fails.
func (kernelGround) Ping(path) (pinger, error) {
	return nil, fmt.Errorf("network namespaces: %w", errors.ErrUnsupported)
}

// Use fails.
func (kernelGround) Use(context.Context, path, netip.Addr) error {
	return fmt.Errorf("network namespaces: %w", errors.ErrUnsupported)
}
