package headnode

import (
	"fmt"

	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// takeOverCounters takes over what a version before counted in keys that every
// transaction wrote, and removes those keys.
func takeOverCounters(tx store.Tx) error {
	for _, one := range []func(store.Tx) error{takeOverIndexes, takeOverRules, networks.TakeOverMACs} {
		if err := one(tx); err != nil {
			return fmt.Errorf("take over counters: %w", err)
		}
	}
	return nil
}
