package networks

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// fabricSet is the journal's set of the networks of an account's fabrics.
func fabricSet(n network) journal.Set { return journal.Set{Name: api.NetworkSet(n.owner())} }

// publishFabric writes a fabric network as servers follow it; of others it does nothing.
func publishFabric(tx store.Tx, n network) error {
	if !n.Fabric {
		return nil
	}
	value, err := json.Marshal(accountNetwork(n))
	if err != nil {
		return fmt.Errorf("network %s as servers follow it: %w", n.UUID, err)
	}
	_, err = journal.Put(tx, fabricSet(n), n.UUID, value)
	return err
}

// unpublishFabric takes a network that is gone out of what servers follow.
func unpublishFabric(tx store.Tx, n network) error {
	if !n.Fabric {
		return nil
	}
	_, err := journal.Delete(tx, fabricSet(n), n.UUID)
	return err
}

// accountNetwork is a fabric network as servers follow it.
func accountNetwork(n network) api.AccountNetwork {
	out := api.AccountNetwork{UUID: n.UUID, MTU: n.MTU, RouterNetwork: api.RouterNetwork{VNI: n.VNI, InternetNAT: n.InternetNAT, Routes: n.Routes}}
	if n.Gateway != "" {
		out.Gateway, out.MAC = n.Gateway+"/"+strconv.Itoa(n.subnet.Bits()), GatewayMAC(n.VNI)
	}
	return out
}

// GatewayMAC is the MAC of a VNI's gateway on every server.
func GatewayMAC(vni uint32) string {
	return fmt.Sprintf(GatewayMACPrefix+":%02x:%02x:%02x", byte(vni>>16), byte(vni>>8), byte(vni))
}

// fabricsTaken is there once the networks of all fabrics are in the journal.
const fabricsTaken = Prefix + "fabrics-taken"

// TakeOverFabrics puts the fabric networks that an older head node left in the store into
// the journal, as TakeOverPorts does.
func TakeOverFabrics(ctx context.Context, s store.Store) error {
	return takeOverFabrics(ctx, s, takenAtOnce)
}

func takeOverFabrics(ctx context.Context, s store.Store, atOnce int) error {
	err := takeOver(ctx, s, fabricsTaken, netPrefix, atOnce, func(tx store.Tx, a api.Network) error {
		n, err := normal(a)
		if err != nil {
			return err
		}
		return publishFabric(tx, n)
	}, func(store.Tx) error { return nil })
	if err != nil {
		return fmt.Errorf("take over fabric networks: %w", err)
	}
	return nil
}

// checkFabrics compares the fabric networks with what servers follow.
func checkFabrics(tx store.Tx) error {
	live := map[string]int{} // by set
	for e, err := range store.Each[api.Network](tx, netPrefix) {
		if err != nil {
			return err
		}
		n, err := normal(e.Value)
		if err != nil {
			return err
		}
		if !n.Fabric {
			continue
		}
		set := fabricSet(n).Name
		live[set]++
		want, err := json.Marshal(accountNetwork(n))
		if err != nil {
			return err
		}
		if has, _, err := journal.Get(tx, set, n.UUID); err != nil || string(has.Value) != string(want) {
			return fmt.Errorf("network %s is %s in the journal; it is %s (%v)", n.UUID, has.Value, want, err)
		}
	}
	for set, n := range live {
		if s, _, err := journal.ReadState(tx, set); err != nil || s.Live != n {
			return fmt.Errorf("set %s has %s; there are %d (%v)", set, api.Plural(s.Live, "network"), n, err)
		}
	}
	return nil
}
