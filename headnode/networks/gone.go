package networks

import (
	"nereid/api"
	"nereid/headnode/store"
)

// Gone NICs are tombstones: a server is told of each until it has said that the NIC is
// not there. What a server is not told to remove it keeps.

func goneKey(server, mac string) string { return gonePrefix + server + "/" + mac + "/" }

// noteGone keeps what follows for servers from a change of a NIC: the server that it
// is no more on has to remove it, and the one that it is on has not.
func noteGone(tx store.Tx, before, after *api.NetworkNIC) error {
	on := func(n *api.NetworkNIC) string {
		if n == nil || n.BelongsToType == api.BelongsToServer {
			return ""
		}
		return n.Server
	}
	was, is := on(before), on(after)
	if was == is {
		return nil
	}
	if is != "" {
		prefix := goneKey(is, after.MAC)
		var instances []string
		for instance, err := range below(tx, prefix) {
			if err != nil {
				return err
			}
			instances = append(instances, instance)
		}
		for _, instance := range instances {
			if err := tx.Delete(prefix + instance); err != nil {
				return err
			}
		}
	}
	if was == "" {
		return nil
	}
	return store.Put(tx, goneKey(was, before.MAC)+before.BelongsTo, api.GoneNIC{ID: newRevision(), MAC: before.MAC, Instance: before.BelongsTo})
}

// GoneNICs are the NICs that a server has to remove and has not said to be gone.
func GoneNICs(tx store.Tx, server string) ([]api.GoneNIC, error) {
	var gone []api.GoneNIC
	for e, err := range store.Each[api.GoneNIC](tx, gonePrefix+server+"/") {
		if err != nil {
			return nil, err
		}
		gone = append(gone, e.Value)
	}
	return gone, nil
}

// ConfirmGone takes in which of its gone NICs a server does not have, by their ids. It
// reports whether it knew any of them.
func ConfirmGone(tx store.Tx, server string, ids []string) (bool, error) {
	if len(ids) == 0 {
		return false, nil
	}
	said := make(map[string]bool, len(ids))
	for _, id := range ids {
		said[id] = true
	}
	gone, err := GoneNICs(tx, server)
	if err != nil {
		return false, err
	}
	known := false
	for _, g := range gone {
		if !said[g.ID] {
			continue
		}
		known = true
		if err := tx.Delete(goneKey(server, g.MAC) + g.Instance); err != nil {
			return false, err
		}
	}
	return known, nil
}
