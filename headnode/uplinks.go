package headnode

import (
	"slices"

	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// noteLinks takes in which NIC tags of a server have no link. When the NAT network's
// is among what changed, the accounts that the server serves, or could serve again,
// are given other gateways.
func (s *Server) noteLinks(tx store.Tx, server string, down []string) error {
	was, _, err := store.Lookup[[]string](tx, natDownPrefix+server)
	if err != nil || slices.Equal(was, down) {
		return err
	}
	if len(down) == 0 {
		err = tx.Delete(natDownPrefix + server)
	} else {
		err = store.Put(tx, natDownPrefix+server, down)
	}
	if err != nil {
		return err
	}
	settings, err := networks.GetSettings(tx)
	if err != nil || settings.NATNetwork == "" {
		return err
	}
	tags, err := natTags(tx, settings.NATNetwork)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(tags, func(tag string) bool { return slices.Contains(was, tag) != slices.Contains(down, tag) }) {
		return nil
	}
	if err := s.renatAll(tx); err != nil {
		return err
	}
	// It may be the gateway of nobody, and do NAT for its own instances alone.
	return touch(tx, server)
}
