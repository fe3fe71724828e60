package headnode

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"nereid/api"
	"nereid/headnode/fabric"
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

// Where a version before kept which servers are gateways of accounts: by server and
// account, and by account and server.
const (
	oldGatewayPrefix = "nat/gateway/"
	oldViaPrefix     = "nat/via/"
)

// natTaken is there once the gateways and port forwards of a version before are in sets.
const natTaken = "nat/taken"

// takeOverNAT puts the gateways and port forwards that a version before left in the store
// into the sets that servers follow, as they are. It costs one look when it was done before.
func takeOverNAT(tx store.Tx) error {
	done, err := store.Has(tx, natTaken)
	if err != nil || done {
		return err
	}
	if err := takeOverServers(tx); err != nil {
		return fmt.Errorf("take over servers that do NAT: %w", err)
	}
	if err := takeOverGateways(tx); err != nil {
		return fmt.Errorf("take over gateway servers: %w", err)
	}
	var forwards []api.FabricForward
	for e, err := range store.Each[api.FabricForward](tx, forwardPrefix) {
		if err != nil {
			return fmt.Errorf("take over port forwards: %w", err)
		}
		forwards = append(forwards, e.Value)
	}
	for _, f := range forwards {
		if err := publishForward(tx, f); err != nil {
			return fmt.Errorf("take over port forwards: %w", err)
		}
	}
	return store.Put(tx, natTaken, true)
}

// takeOverServers notes which servers can do NAT, and tells them and those with a transit
// address.
func takeOverServers(tx store.Tx) error {
	tags, err := natTags(tx)
	if err != nil {
		return err
	}
	servers, err := keysBelow(tx, natIndexPrefix)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		some, err := networks.ServersProviding(tx, tag)
		if err != nil {
			return err
		}
		for _, server := range some {
			if err := noteAble(tx, server, tags); err != nil {
				return err
			}
		}
		servers = append(servers, some...)
	}
	slices.Sort(servers)
	for _, server := range slices.Compact(servers) {
		if err := tellNAT(tx, server); err != nil {
			return err
		}
	}
	return nil
}

// takeOverGateways makes sets of the keys of before.
func takeOverGateways(tx store.Tx) error {
	old, err := keysBelow(tx, oldViaPrefix)
	if err != nil {
		return err
	}
	gateways := map[string][]string{} // by account
	for _, key := range old {
		owner, server, _ := strings.Cut(key, "/")
		gateways[owner] = append(gateways[owner], server)
		if err := errors.Join(putSet(tx, api.ServerNATSet(server), owner, api.ServerNAT{UUID: owner}),
			tx.Delete(oldViaPrefix+key), tx.Delete(oldGatewayPrefix+server+"/"+owner)); err != nil {
			return err
		}
	}
	var owners []string
	for owner, err := range fabric.Transits(tx) {
		if err != nil {
			return err
		}
		owners = append(owners, owner)
	}
	for _, owner := range owners {
		vni, _, err := fabric.TransitOf(tx, owner)
		if err == nil {
			err = putGateways(tx, owner, vni, chooseGateways(owner, gateways[owner]))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
