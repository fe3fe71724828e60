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
	for after, done := "", false; !done; {
		last := ""
		err := s.Update(ctx, func(tx store.Tx) (err error) {
			if done, err = store.Has(tx, portsTaken); err != nil || done {
				return err
			}
			if last, err = takeOverSome(tx, after, atOnce); err != nil || last != "" {
				return err
			}
			if err := takeOverGone(tx); err != nil {
				return err
			}
			done = true
			return store.Put(tx, portsTaken, true)
		})
		if err != nil {
			return err
		}
		after = last
	}
	return nil
}

// takeOverSome takes over the NICs behind a MAC; last is the one to go on behind, empty
// at the end.
func takeOverSome(tx store.Tx, after string, atOnce int) (last string, err error) {
	nics, last, err := page(tx, nicPrefix, after, atOnce, func(api.NetworkNIC) bool { return true })
	for _, n := range nics {
		if err != nil {
			return "", err
		}
		for k, v := range nicIndex(n) {
			if err := tx.Put(k, []byte(v)); err != nil {
				return "", err
			}
		}
		err = movePort(tx, nil, &n)
	}
	return last, err
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
