package mdata

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"nereid/api"
)

// Guest is what a guest may read of itself: what is wanted of it, and where it is.
type Guest struct {
	api.InstanceSpec
	Server string `json:"server_uuid,omitempty"`
}

// Bounds of a guest's own metadata, as the head node has them.
const (
	maxKeys  = 256
	maxKey   = 255       // bytes
	maxTotal = 128 << 10 // bytes of all keys and values
)

// own is the namespace of what the datacenter says of a guest.
const own = "sdc:"

// Get is the value of a key as text: strings as they are, all others as JSON.
func (g Guest) Get(key string) (string, bool) {
	if name, ok := strings.CutPrefix(key, own); ok {
		v, found := lookup(g.properties(), name)
		if !found {
			return "", false
		}
		return text(v), true
	}
	v, found := g.Internal[key]
	if !found || !internal(key) {
		v, found = g.Metadata[key]
	}
	if !found || v == nil {
		return "", false
	}
	return text(v), true
}

// internal reports whether a key is one that operators set and guests read.
func internal(key string) bool {
	return strings.Contains(key, ":") || strings.HasSuffix(key, "_pw")
}

// Keys are those of Get, without what the datacenter says.
func (g Guest) Keys() []string {
	all := slices.Collect(maps.Keys(g.Metadata))
	for key := range g.Internal {
		if internal(key) {
			all = append(all, key)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Writable says why a guest may not set or delete a key.
func (g Guest) Writable(key string) error {
	space, _, spaced := strings.Cut(key, ":")
	if spaced && (space+":" == own || g.reads(space)) {
		return fmt.Errorf("Cannot update the %q Namespace", space)
	}
	switch {
	case key == "" || len(key) > maxKey:
		return fmt.Errorf("a key has 1 to %d bytes", maxKey)
	case !utf8.ValidString(key) || strings.ContainsFunc(key, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return errors.New("a key has no spaces, no control characters, and is UTF-8")
	case strings.HasSuffix(key, "_pw"):
		return errors.New("keys that end in _pw are the operator's")
	}
	return nil
}

// reads reports whether a namespace is one of the operator's.
func (g Guest) reads(space string) bool {
	for key := range g.Internal {
		if strings.HasPrefix(key, space+":") {
			return true
		}
	}
	return false
}

// Fits says why a value may not be set.
func (g Guest) Fits(key, value string) error {
	if !utf8.ValidString(value) {
		return errors.New("a value is UTF-8; encode others, as in base64")
	}
	n := len(key) + len(value)
	for k, v := range g.Metadata {
		if k != key {
			n += len(k) + len(text(v))
		}
	}
	_, is := g.Metadata[key]
	switch {
	case n > maxTotal:
		return fmt.Errorf("all metadata together would have %d bytes; at most %d are kept", n, maxTotal)
	case !is && len(g.Metadata) >= maxKeys:
		return fmt.Errorf("%s are there, and no more are kept", api.Plural(len(g.Metadata), "key"))
	}
	return nil
}

// text is a value as guests get it.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case int:
		return strconv.Itoa(v)
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return strconv.FormatInt(int64(v), 10)
		}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v) // JSON has no such number
	}
	return string(b)
}

// lookup finds a property, or with periods a part of one, as nics.0.ip.
func lookup(v any, path string) (any, bool) {
	if m, ok := v.(map[string]any); ok {
		if v, found := m[path]; found { // the name of a tag may have periods
			return v, v != nil
		}
	}
	name, rest, more := strings.Cut(path, ".")
	switch at := v.(type) {
	case map[string]any:
		v = at[name]
	case []any:
		n, err := strconv.Atoi(name)
		if err != nil || n < 0 || n >= len(at) {
			return nil, false
		}
		v = at[n]
	default:
		return nil, false
	}
	if v == nil || !more {
		return v, v != nil
	}
	return lookup(v, rest)
}

// properties are what the datacenter says of a guest, by the names of vmadm(8).
func (g Guest) properties() map[string]any {
	p := map[string]any{
		"uuid": g.UUID, "zonename": g.UUID, "server_uuid": some(g.Server), "owner_uuid": g.Owner,
		"alias": g.Name, "hostname": g.Hostname, "dns_domain": some(g.DNSDomain), "datacenter_name": some(g.Datacenter),
		"image_uuid": g.Image, "billing_id": some(g.Package), "package_uuid": some(g.Package), "brand": g.Brand, "state": "running",
		"max_physical_memory": g.MemoryMiB, "ram": g.MemoryMiB, "max_swap": g.MemoryMiB + g.SwapMiB, "vcpus": g.VCPUs,
		"cpu_cap": g.CPUCapPercent, "quota": float64(g.QuotaMiB) / 1024, "max_lwps": g.Processes,
		"nics": g.nics(), "routes": g.routes(), "resolvers": list(g.Resolvers), "volumes": []any{}, "tags": map[string]any{},
		"operator-script": g.Internal["operator-script"], "vendor-data": g.Internal["vendor-data"],
	}
	if g.Tags != nil {
		p["tags"] = g.Tags
	}
	return p
}

// some is a text, or nothing.
func some(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func list(s []string) []any {
	out := make([]any, 0, len(s))
	for _, v := range s {
		out = append(out, v)
	}
	return out
}

func (g Guest) nics() []any {
	out := make([]any, 0, len(g.NICs))
	for _, n := range g.NICs {
		m := map[string]any{"interface": n.Interface, "mac": n.MAC, "network_uuid": n.Network, "mtu": n.MTU, "primary": n.Primary}
		var ips, gateways []any
		for _, a := range n.Addresses {
			p, err := netip.ParsePrefix(a.Address)
			if err != nil {
				continue
			}
			ips = append(ips, p.String())
			if a.Gateway != "" {
				gateways = append(gateways, a.Gateway)
			}
			if _, has := m["ip"]; !has && p.Addr().Is4() {
				m["ip"], m["netmask"] = p.Addr().String(), mask(p.Bits())
				if a.Gateway != "" {
					m["gateway"] = a.Gateway
				}
			}
		}
		if ips != nil {
			m["ips"] = ips
		}
		if gateways != nil {
			m["gateways"] = gateways
		}
		out = append(out, m)
	}
	return out
}

func mask(bits int) string {
	n := uint32(math.MaxUint32) << (32 - bits)
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}).String()
}

func (g Guest) routes() []any {
	out := []any{}
	for _, n := range g.NICs {
		for _, a := range n.Addresses {
			for _, dst := range slices.Sorted(maps.Keys(a.Routes)) {
				out = append(out, map[string]any{"dst": dst, "gateway": a.Routes[dst], "linklocal": false})
			}
		}
	}
	return out
}
