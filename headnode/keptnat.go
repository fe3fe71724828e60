package headnode

import (
	"maps"
	"slices"

	"nereid/headnode/store"
)

// An account has its ways out also for NICs that the head node does not know, and that
// are kept in maps: else a gateway server would hear that it is none of the account's.
//
//	kept/by/<owner>/<server>  the server has NICs of the account that are kept in maps
const keptByPrefix = "kept/by/"

// keptServers are those with kept NICs of an account.
func keptServers(tx store.Tx, owner string) ([]string, error) {
	var out []string
	prefix := keptByPrefix + owner + "/"
	for it, err := range tx.Scan(prefix, "") {
		if err != nil {
			return nil, err
		}
		out = append(out, it.Key[len(prefix):])
	}
	return out, nil
}

// noteKept notes which of some accounts have NICs of a server that are kept.
func noteKept(tx store.Tx, server string, owners ...string) error {
	for _, owner := range owners {
		has, err := store.HasBelow(tx, keptPrefix+server+"/"+owner+"/")
		if err != nil {
			return err
		}
		key := keptByPrefix + owner + "/" + server
		if has {
			err = store.Put(tx, key, struct{}{})
		} else {
			err = tx.Delete(key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// renatKept brings the NAT of accounts up to date, some of whose NICs of a server began
// or ceased to be kept.
func (s *Server) renatKept(tx store.Tx, server string, kept ...map[string]keptNIC) error {
	set := map[string]bool{}
	for _, some := range kept {
		for _, k := range some {
			set[k.owner] = true
		}
	}
	owners := slices.Sorted(maps.Keys(set))
	if err := noteKept(tx, server, owners...); err != nil {
		return err
	}
	return s.renatEach(tx, owners...)
}
