package networks

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"nereid/api"
	"nereid/headnode/store"
)

// DefaultMACPrefix begins the MACs that are made when the settings name none. Its
// first byte says "locally administered, unicast", in the quadrant that IEEE
// 802c-2017 leaves to administrators (AAI, second digit 2); the others are "nr".
const DefaultMACPrefix = "02:6e:72"

// GatewayMACPrefix begins the MACs of the fabrics' gateways. It is in the quadrant of
// locally administered addresses that MACs of NICs do not come from: the second
// hexadecimal digit is 6, not 2.
const GatewayMACPrefix = "06:6e:72"

// What VXLAN adds to a packet, in bytes: inner Ethernet header 14, VXLAN 8, UDP 8,
// IPv4 20 or IPv6 40 (RFC 7348, section 5).
const (
	overhead4 = 50
	overhead6 = 70
)

// OverlayMTU is the greatest MTU of fabric networks over an underlay of the given
// MTU and family ("ipv4" or "ipv6").
func OverlayMTU(underlay int, family string) int {
	if family == familyIPv6 {
		return underlay - overhead6
	}
	return underlay - overhead4
}

// Overhead is what VXLAN adds to a packet on an underlay with such an address.
func Overhead(underlay netip.Addr) int {
	if underlay.Is6() {
		return overhead6
	}
	return overhead4
}

// GetSettings reads the settings of the fabrics, with the default MAC prefix
// filled in.
func GetSettings(tx store.Tx) (api.FabricSettings, error) {
	s, found, err := store.Lookup[api.FabricSettings](tx, settingsKey)
	if err != nil {
		return s, fmt.Errorf("read fabric settings: %w", err)
	}
	if !found {
		s.Revision = "0"
	}
	if s.MACPrefix == "" {
		s.MACPrefix = DefaultMACPrefix
	}
	return s, nil
}

// UpdateSettings replaces the settings of the fabrics. The underlay's NIC tag
// cannot change while there are fabric networks or underlay addresses, and the
// overlay's MTU must carry every fabric network there is. s.Revision, where there is one,
// is the revision that s was made of; api.CodeStale when it is another by now.
func UpdateSettings(tx store.Tx, s api.FabricSettings) (_ api.FabricSettings, err error) {
	defer named(&err, "change fabric settings")
	old, err := GetSettings(tx)
	if err != nil {
		return s, err
	}
	if err := unchanged("the fabric settings", old.Revision, s.Revision); err != nil {
		return s, err
	}
	var faults []error
	if s.MACPrefix, err = parseMACPrefix(s.MACPrefix); err != nil {
		faults = append(faults, err)
	}
	if s.UnderlayTag != old.UnderlayTag {
		faults = append(faults, underlayMayChange(tx, old, s))
	}
	if s.OverlayMTU != 0 && (s.OverlayMTU < minMTU4 || s.OverlayMTU > MaxMTU-overhead4) {
		faults = append(faults, invalid("choose one in that range, or 0 for what the underlay allows", "overlay MTU %d: want %d to %d", s.OverlayMTU, minMTU4, MaxMTU-overhead4))
	}
	if s.NATNetwork != "" {
		if s.NATNetwork, err = natNetwork(tx, s.NATNetwork); err != nil {
			faults = append(faults, err)
		} else if s.NATNetwork != old.NATNetwork {
			nets, err := natNetworks(tx, s.NATNetwork)
			if err != nil {
				return s, err
			}
			faults = append(faults, fabricsApart(tx, nets, nil))
		}
	}
	if err := api.Faults(faults...); err != nil {
		return s, err
	}
	s.Revision = newRevision()
	if err := store.Put(tx, settingsKey, s); err != nil {
		return s, err
	}
	return s, overlayFits(tx, "the fabric settings cannot change so")
}

// parseMACPrefix reads three bytes; empty is the default.
func parseMACPrefix(s string) (string, error) {
	if s == "" {
		return DefaultMACPrefix, nil
	}
	m, err := net.ParseMAC(strings.ReplaceAll(s, "-", ":") + ":00:00:00")
	if err != nil || len(m) != 6 || m[0]&1 != 0 || m[0]|m[1]|m[2] == 0 {
		return "", invalid("give one like "+DefaultMACPrefix, "MAC prefix %.64q: want three bytes, the first even", s)
	}
	prefix := m.String()[:8]
	if prefix == GatewayMACPrefix {
		return "", invalid("give one like "+DefaultMACPrefix, "MAC prefix %s is that of the fabrics' gateways", prefix)
	}
	return prefix, nil
}

// underlayMayChange checks the new tag, and that nothing is on the old one.
func underlayMayChange(tx store.Tx, old, s api.FabricSettings) error {
	if s.UnderlayTag != "" {
		if _, err := GetNICTag(tx, s.UnderlayTag); err != nil {
			return err
		}
	}
	if old.UnderlayTag == "" {
		return nil
	}
	var u uses
	for it, err := range tx.Scan(underlayPrefix, "") {
		if err != nil {
			return err
		}
		if !u.add("underlay NIC %s", it.Value) {
			break
		}
	}
	if err := eachFabric(tx, func(n network) bool { return u.add("fabric network %s (%s) of %s", n.Name, n.UUID, n.owner()) }); err != nil {
		return err
	}
	return u.refuse("delete those first", "the underlay's NIC tag %s is in use", old.UnderlayTag)
}

// natNetwork finds the network or pool that internet_nat takes addresses of.
func natNetwork(tx store.Tx, id string) (string, error) {
	t, err := resolve(tx, "", id)
	if err != nil {
		return "", err
	}
	if t.pool != nil {
		return t.pool.UUID, nil
	}
	if t.nets[0].Fabric {
		return "", invalid("name a network with addresses that are reached from outside", "%s is a fabric network", t.nets[0].Name)
	}
	return t.nets[0].UUID, nil
}

// OverlayLimit is the greatest MTU a fabric network can have now: what the
// networks with underlay addresses leave after VXLAN (before there are any, what
// the underlay's NIC tag leaves over IPv4), and at most the settings' overlay MTU.
// 0 when there is no underlay.
func OverlayLimit(tx store.Tx) (_ int, err error) {
	defer named(&err, "compute overlay MTU")
	s, err := GetSettings(tx)
	if err != nil || s.UnderlayTag == "" {
		return 0, err
	}
	carried, err := carriedMTU(tx, s.UnderlayTag)
	if err != nil || s.OverlayMTU == 0 {
		return carried, err
	}
	return min(carried, s.OverlayMTU), nil
}

// carriedMTU is what the underlay leaves after VXLAN.
func carriedMTU(tx store.Tx, tag string) (int, error) {
	t, err := GetNICTag(tx, tag)
	if err != nil {
		return 0, err
	}
	nets, err := UnderlayNetworks(tx)
	if err != nil {
		return 0, err
	}
	limit := OverlayMTU(t.MTU, familyIPv4)
	for _, n := range nets {
		limit = min(limit, OverlayMTU(n.MTU, n.Family))
	}
	return limit, nil
}

// overlayFits refuses a change, already written, after which the underlay carries
// less than what the settings promise or a fabric network has.
func overlayFits(tx store.Tx, what string) error {
	s, err := GetSettings(tx)
	if err != nil || s.UnderlayTag == "" {
		return err
	}
	carried, err := carriedMTU(tx, s.UnderlayTag)
	if err != nil {
		return err
	}
	if s.OverlayMTU > carried {
		return conflict("raise the MTU of the underlay's NIC tag and networks, or lower the overlay's", "%s: the overlay's MTU is %d, and the underlay would carry %d after VXLAN", what, s.OverlayMTU, carried)
	}
	limit := carried
	if s.OverlayMTU != 0 {
		limit = s.OverlayMTU
	}
	var u uses
	err = eachFabric(tx, func(n network) bool {
		return n.MTU <= limit || u.add("fabric network %s (%s) of %s has MTU %d", n.Name, n.UUID, n.owner(), n.MTU)
	})
	if err != nil {
		return err
	}
	return u.refuse("lower the MTU of those first", "%s: fabric networks have more than the %d bytes that would be left after VXLAN", what, limit)
}
