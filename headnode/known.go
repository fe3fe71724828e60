package headnode

import (
	"context"

	"nereid/headnode/inventory"
	"nereid/headnode/store"
)

// Known reports whether a MAC, in lower case with colons, belongs to a server of the
// inventory. It is answered from memory: the boot server asks it for each message, to
// let servers go before strangers.
func (s *Server) Known(mac string) bool {
	owned := s.known.Load()
	return owned != nil && (*owned)[mac]
}

// followKnown keeps what Known answers by until ctx ends.
func (s *Server) followKnown(ctx context.Context) error {
	changed := s.store.Watch(ctx, inventory.MACPrefix)
	for {
		err := s.store.View(ctx, func(tx store.Tx) error {
			owned, err := inventory.Owned(tx)
			if err == nil {
				s.known.Store(&owned)
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
