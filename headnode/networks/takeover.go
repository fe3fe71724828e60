package networks

import (
	"context"
	"fmt"
	"strings"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// oldGonePrefix is where the tombstones of NICs were before the journal:
// <server>/<MAC>/<instance>.
const oldGonePrefix = Prefix + "gone/"

// portsTaken is there once the ports of all NICs are in the journal.
const portsTaken = Prefix + "ports-taken"

// placesTaken is there once all networks are found by their subnets.
const placesTaken = Prefix + "places-taken"

// allowedTaken is there once the allowed_ips of all NICs are in their index.
const allowedTaken = Prefix + "allowed-taken"

// ownedTaken is there once all ports are found by their accounts, and have the firewall
// tags of their NICs.
const ownedTaken = Prefix + "owned-taken"

// takenAtOnce is how many NICs a transaction of TakeOverPorts takes over.
const takenAtOnce = 500

// TakeOverPorts puts the NICs and the tombstones that an older head node left in the
// store into the journal. A head node that is killed meanwhile goes on with the next
// start. It costs one look when it was done before.
func TakeOverPorts(ctx context.Context, s store.Store) error {
	if err := takeOverPorts(ctx, s, takenAtOnce); err != nil {
		return fmt.Errorf("take over ports: %w", err)
	}
	return nil
}

func takeOverPorts(ctx context.Context, s store.Store, atOnce int) error {
	return takeOver(ctx, s, portsTaken, nicPrefix, atOnce, func(tx store.Tx, n api.NetworkNIC) error {
		for k, v := range nicIndex(n) {
			if err := tx.Put(k, []byte(v)); err != nil {
				return err
			}
		}
		return movePort(tx, nil, &n)
	}, takeOverGone)
}

// TakeOverAllowed makes the index of allowed_ips of what an older head node left in the
// store, as TakeOverPorts does.
func TakeOverAllowed(ctx context.Context, s store.Store) error {
	err := takeOver(ctx, s, allowedTaken, nicPrefix, takenAtOnce, func(tx store.Tx, n api.NetworkNIC) error {
		for _, k := range allowedKeys(n) {
			if err := tx.Put(k, nil); err != nil {
				return err
			}
		}
		return nil
	}, func(store.Tx) error { return nil })
	if err != nil {
		return fmt.Errorf("take over allowed_ips: %w", err)
	}
	return nil
}

// TakeOverOwned makes the index of ports by their accounts, and gives them their firewall
// tags, of what an older head node left in the store, as TakeOverPorts does.
func TakeOverOwned(ctx context.Context, s store.Store) error {
	err := takeOver(ctx, s, ownedTaken, nicPrefix, takenAtOnce, func(tx store.Tx, n api.NetworkNIC) error {
		if portOn(&n) == "" {
			return nil
		}
		if k := ownedKey(n); k != "" {
			if err := tx.Put(k, nil); err != nil {
				return err
			}
		}
		return putPort(tx, n)
	}, func(store.Tx) error { return nil })
	if err != nil {
		return fmt.Errorf("take over the accounts of ports: %w", err)
	}
	return nil
}

// TakeOverPlaces makes the index of networks by their subnets of what an older head node
// left in the store, as TakeOverPorts does.
func TakeOverPlaces(ctx context.Context, s store.Store) error {
	err := takeOver(ctx, s, placesTaken, netPrefix, takenAtOnce, func(tx store.Tx, a api.Network) error {
		n, err := normal(a)
		if err != nil {
			return err
		}
		return placeNetwork(tx, n)
	}, func(store.Tx) error { return nil })
	if err != nil {
		return fmt.Errorf("take over the places of networks: %w", err)
	}
	return nil
}

// takeOver calls one for every object below a prefix, atOnce of them in a transaction,
// and last in the transaction that puts the key taken. Once that is there it does nothing.
func takeOver[T any](ctx context.Context, s store.Store, taken, prefix string, atOnce int, one func(store.Tx, T) error, last func(store.Tx) error) error {
	for after, done := "", false; !done; {
		next := ""
		err := s.Update(ctx, func(tx store.Tx) (err error) {
			if done, err = store.Has(tx, taken); err != nil || done {
				return err
			}
			var some []T
			some, next, err = page(tx, prefix, after, atOnce, func(T) bool { return true })
			for _, o := range some {
				if err == nil {
					err = one(tx, o)
				}
			}
			if err != nil || next != "" {
				return err
			}
			if err := last(tx); err != nil {
				return err
			}
			done = true
			return store.Put(tx, taken, true)
		})
		if err != nil {
			return err
		}
		after = next
	}
	return nil
}

// takeOverGone makes tombstones of the journal of those of before.
func takeOverGone(tx store.Tx) error {
	for e, err := range store.Each[api.GoneNIC](tx, oldGonePrefix) {
		if err != nil {
			return err
		}
		g := e.Value
		server, _, _ := strings.Cut(e.Key[len(oldGonePrefix):], "/")
		value := []byte(`{"mac":"` + g.MAC + `","instance":"` + g.Instance + `"}`)
		if _, err := journal.Edit(tx, PortSet(server), func(e *journal.Editor) error {
			key := api.PortKey(g.MAC, g.Instance)
			if err := e.Put(key, value); err != nil {
				return err
			}
			return e.Delete(key)
		}); err != nil {
			return err
		}
		if err := tx.Delete(e.Key); err != nil {
			return err
		}
	}
	return nil
}
