package zone

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"nereid/api"
)

// seedDir is where cloud-init's data source NoCloud looks for a seed (cloud-init's
// documentation, "NoCloud", "Source 1: Local filesystem").
const seedDir = "var/lib/cloud/seed/nocloud/"

// seed are the files of a NoCloud seed: what cloud-init sets up is what the zone has
// already, and what the customer wants of it. The instance-id is the zone's for good.
func (in Inside) seed() ([]file, error) {
	if in.UUID == "" {
		return nil, nil
	}
	type document struct {
		name string
		v    any
	}
	var all []file
	add := func(name, text string) {
		all = append(all, file{path: seedDir + name, text: text, mode: 0o600, dir: 0o755, ours: true})
	}
	for _, d := range []document{{"meta-data", in.metaData()}, {"network-config", in.networkConfig()}} {
		// JSON is YAML (YAML 1.2, section 1.3).
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(d.v); err != nil {
			return nil, fmt.Errorf("write %s: %w", d.name, err)
		}
		add(d.name, b.String())
	}
	add("user-data", in.UserData)
	vendor := ""
	if in.Script {
		vendor = vendorData
	}
	add("vendor-data", vendor)
	return all, nil
}

// vendorData has cloud-init run what the customer wants run at each boot.
const vendorData = `#cloud-boothook
#!/bin/sh
mkdir -p /var/lib/cloud/scripts/per-boot
printf '#!/bin/sh\nexec ` + Inner + "/" + scriptName + `\n' >/var/lib/cloud/scripts/per-boot/01-nereid-user-script
chmod 0755 /var/lib/cloud/scripts/per-boot/01-nereid-user-script
`

func (in Inside) metaData() map[string]any {
	m := map[string]any{"instance-id": in.UUID, "local-hostname": in.Hostname}
	if in.Domain != "" {
		m["local-hostname"] = in.Hostname + "." + in.Domain
	}
	var keys []string
	for line := range strings.Lines(in.Keys) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			keys = append(keys, line)
		}
	}
	if keys != nil {
		m["public-keys"] = keys
	}
	return m
}

// networkConfig is version 1 of cloud-init's network configuration, which all releases
// and all distributions' renderers understand.
func (in Inside) networkConfig() map[string]any {
	if len(in.NICs) == 0 {
		return map[string]any{"config": "disabled"}
	}
	var config []map[string]any
	for _, n := range in.NICs {
		config = append(config, physical(n))
	}
	if len(in.Resolvers) > 0 {
		ns := map[string]any{"type": "nameserver", "address": in.Resolvers}
		if in.Domain != "" {
			ns["search"] = []string{in.Domain}
		}
		config = append(config, ns)
	}
	return map[string]any{"version": 1, "config": config}
}

func physical(n api.InstanceNIC) map[string]any {
	subnets := []map[string]any{}
	for _, a := range n.Addresses {
		p, err := netip.ParsePrefix(a.Address)
		if err != nil {
			continue // it is said where the address is set
		}
		s := map[string]any{"type": "static", "address": a.Address}
		if p.Addr().Is6() {
			s["type"] = "static6"
		}
		if n.Primary && a.Gateway != "" {
			s["gateway"] = a.Gateway
		}
		var routes []map[string]any
		for _, dst := range slices.Sorted(maps.Keys(a.Routes)) {
			routes = append(routes, map[string]any{"destination": dst, "gateway": a.Routes[dst]})
		}
		if routes != nil {
			s["routes"] = routes
		}
		subnets = append(subnets, s)
	}
	out := map[string]any{"type": "physical", "name": n.Interface, "mac_address": n.MAC, "subnets": subnets}
	if n.MTU > 0 {
		out["mtu"] = n.MTU
	}
	return out
}
