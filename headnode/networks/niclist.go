package networks

import (
	"strings"

	"nereid/api"
	"nereid/headnode/store"
)

// NICFilter says which NICs ListNICs gives; empty fields do not limit. All are
// UUIDs.
type NICFilter struct {
	Owner, BelongsTo, Server, Network string
}

// index is the narrowest key prefix that has all of them, MACs behind it.
func (f NICFilter) index() string {
	for _, by := range []struct{ kind, id string }{{"b", f.BelongsTo}, {"s", f.Server}, {"n", f.Network}, {"o", f.Owner}} {
		if by.id != "" {
			return nicByPrefix + by.kind + "/" + by.id + "/"
		}
	}
	return nicPrefix
}

func (f NICFilter) keep(n api.NetworkNIC) bool {
	on := f.Network == ""
	for _, a := range n.Addresses {
		on = on || a.Network == f.Network
	}
	return on && (f.Owner == "" || n.Owner == f.Owner) && (f.BelongsTo == "" || n.BelongsTo == f.BelongsTo) && (f.Server == "" || n.Server == f.Server)
}

// ListNICs reads a page of NICs by MAC; see store.Scan.
func ListNICs(tx store.Tx, f NICFilter, after string, limit int) (_ []api.NetworkNIC, next string, err error) {
	defer named(&err, "list NICs")
	f = NICFilter{strings.ToLower(f.Owner), strings.ToLower(f.BelongsTo), strings.ToLower(f.Server), strings.ToLower(f.Network)}
	prefix := f.index()
	from := ""
	if after != "" {
		from = prefix + strings.ToLower(after)
	}
	nics := store.EachBehind[api.NetworkNIC](tx, nicPrefix, from)
	if prefix != nicPrefix {
		nics = store.Through[api.NetworkNIC](tx, prefix, from, func(it store.Item) string { return nicPrefix + it.Key[len(prefix):] })
	}
	var out []api.NetworkNIC
	for e, err := range nics {
		if err != nil {
			return nil, "", err
		}
		if !f.keep(e.Value) {
			continue
		}
		if limit > 0 && len(out) == limit {
			next = out[limit-1].MAC
			break
		}
		out = append(out, e.Value)
	}
	return out, next, withMTUs(tx, out)
}

// eachNICOf calls fn for the NICs of an index ('o', 'b', 's' or 'n') as stored,
// until it says false.
func eachNICOf(tx store.Tx, kind byte, id string, fn func(api.NetworkNIC) bool) error {
	prefix := nicByPrefix + string(kind) + "/" + id + "/"
	for e, err := range store.Through[api.NetworkNIC](tx, prefix, "", func(it store.Item) string { return nicPrefix + it.Key[len(prefix):] }) {
		if err != nil {
			return err
		}
		if !fn(e.Value) {
			return nil
		}
	}
	return nil
}

// SearchNICs finds NICs by a MAC, or the first bytes of one like "02:6e:72".
func SearchNICs(tx store.Tx, mac string) (_ []api.NetworkNIC, err error) {
	defer named(&err, "search NIC %s", mac)
	m := strings.ReplaceAll(strings.ToLower(mac), "-", ":")
	if p, err := parseMAC(mac); err == nil {
		m = p
	}
	if m == "" || strings.Trim(m, "0123456789abcdef:") != "" {
		return nil, invalid("give a MAC, or its first bytes, like 02:6e:72", "%.64q is no part of a MAC", mac)
	}
	var out []api.NetworkNIC
	for e, err := range store.Each[api.NetworkNIC](tx, nicPrefix+m) {
		if err != nil {
			return nil, err
		}
		if out = append(out, e.Value); len(out) == maxFound {
			break
		}
	}
	return out, withMTUs(tx, out)
}

// maxFound bounds what a search gives.
const maxFound = 1000

// NICsOfServer gives the NICs on a server, by MAC.
func NICsOfServer(tx store.Tx, server string) ([]api.NetworkNIC, error) {
	out, _, err := ListNICs(tx, NICFilter{Server: server}, "", 0)
	return out, err
}
