package headnode

import (
	"context"
	"net/netip"

	"nereid/headnode/addresses"
	"nereid/headnode/inventory"
	"nereid/headnode/store"
)

// known is what is looked up in memory of the servers of the inventory, for each
// message and connection, to let servers go before strangers.
type known struct {
	macs      map[string]bool
	addresses map[netip.Addr]bool // that were reserved for them
}

// Known reports whether a MAC, in lower case with colons, belongs to a server of the
// inventory. It is answered from memory.
func (s *Server) Known(mac string) bool {
	k := s.known.Load()
	return k != nil && k.macs[mac]
}

func (s *Server) knownAddress(a netip.Addr) bool {
	k := s.known.Load()
	return k != nil && k.addresses[a]
}

// followKnown keeps what is known until ctx ends. A server gets its address in the
// Update that makes its MAC its own.
func (s *Server) followKnown(ctx context.Context) error {
	changed := s.store.Watch(ctx, inventory.MACPrefix)
	for {
		err := s.store.View(ctx, func(tx store.Tx) (err error) {
			k := &known{}
			if k.macs, err = inventory.Owned(tx); err != nil {
				return err
			}
			if k.addresses, err = addresses.OfServers(tx); err == nil {
				s.known.Store(k)
			}
			return err
		})
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if _, open := <-changed; !open {
			return nil
		}
	}
}

// lane has what is written for a stranger go behind all else that is written: there
// may be any number of them, and a server's boot waits for its own writes only.
func (s *Server) lane(ctx context.Context, mac string) context.Context {
	if s.Known(mac) {
		return ctx
	}
	return store.Behind(ctx)
}
