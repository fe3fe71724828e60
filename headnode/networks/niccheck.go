package networks

import (
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"nereid/api"
)

// Bounds of a NIC's lists.
const (
	maxAddresses  = 16
	maxAllowedIPs = 64
	maxTags       = 256
	maxTagLength  = 255 // bytes of a firewall tag's name, and of its value
)

// checkNIC checks what of a NIC can be judged by itself, and puts it in canonical
// form.
func checkNIC(n *api.NetworkNIC) error {
	var faults []error
	for _, f := range []struct {
		what     string
		value    *string
		required bool
	}{
		{"owner", &n.Owner, n.BelongsToType == api.BelongsToZone},
		{"belongs_to", &n.BelongsTo, true},
		{"server", &n.Server, n.BelongsToType == api.BelongsToServer},
	} {
		u, ok := parseUUID(*f.value)
		if !ok && (f.required || *f.value != "") {
			faults = append(faults, invalid("give it", "%s of the NIC: %.64q is not a UUID", f.what, *f.value))
		}
		*f.value = u
	}
	switch {
	case !slices.Contains([]string{api.BelongsToZone, api.BelongsToServer, api.BelongsToOther}, n.BelongsToType):
		faults = append(faults, invalid("choose one of those", "the NIC belongs to a %.64q; want zone, server or other", n.BelongsToType))
	case n.BelongsToType == api.BelongsToServer && n.BelongsTo != n.Server:
		faults = append(faults, invalid("name the same server twice", "the NIC belongs to server %s and is on server %s", n.BelongsTo, n.Server))
	case n.Underlay && n.BelongsToType != api.BelongsToServer:
		faults = append(faults, invalid("let it belong to a server", "an underlay NIC belongs to a server, not to a %s", n.BelongsToType))
	}
	if !slices.Contains([]string{"", "provisioning", "stopped", "running"}, n.State) {
		faults = append(faults, invalid("choose one of those", "state %.64q of the NIC: want provisioning, stopped or running", n.State))
	}
	return api.Faults(append(faults, checkFirewallTags(n.Tags), checkFlags(&n.SpoofFlags))...)
}

// checkFirewallTags checks what a rule can name.
func checkFirewallTags(tags map[string]string) error {
	if len(tags) > maxTags {
		return invalid("set fewer", "the NIC has %d firewall tags; at most %d are allowed", len(tags), maxTags)
	}
	for name, value := range tags {
		if name == "" || len(name) > maxTagLength || len(value) > maxTagLength {
			return invalid("shorten it", "firewall tag %.64q=%.64q: want a name of 1 to %d bytes and a value of at most %d", name, value, maxTagLength, maxTagLength)
		}
		for _, s := range []string{name, value} {
			if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
				return invalid("use printable characters", "firewall tag %.64q=%.64q has control characters, or is not UTF-8", name, value)
			}
		}
	}
	return nil
}

// checkFlags puts the allowed addresses in canonical form.
func checkFlags(f *api.SpoofFlags) error {
	if len(f.AllowedIPs) > maxAllowedIPs {
		return invalid("name fewer, or subnets", "the NIC has %d allowed_ips; at most %d are allowed", len(f.AllowedIPs), maxAllowedIPs)
	}
	var out []string
	for _, s := range f.AllowedIPs {
		text := ""
		if strings.Contains(s, "/") {
			p, err := parseCIDR(s)
			if err != nil {
				return invalid("correct it", "allowed_ips: %v", err)
			}
			text = p.String()
		} else {
			a, err := parseAddr(s)
			if err != nil {
				return invalid("correct it", "allowed_ips: %v", err)
			}
			text = a.String()
		}
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	f.AllowedIPs = out
	return nil
}

// underlayAddresses checks the networks of an underlay NIC and gives its address
// of each family.
func underlayAddresses(nets []network, addrs []netip.Addr, underlayTag string) (map[string]int, error) {
	byFamily := map[string]int{}
	for i, n := range nets {
		if n.Fabric || n.NICTag != underlayTag || underlayTag == "" {
			return nil, conflict("use a network on the underlay's NIC tag", "network %s is on %s; the underlay is NIC tag %q", n.Name, n.where(), underlayTag)
		}
		f := family(addrs[i])
		if _, twice := byFamily[f]; twice {
			return nil, invalid("give it one", "an underlay NIC has one address of each family, not two of %s", f)
		}
		byFamily[f] = i
	}
	return byFamily, nil
}
