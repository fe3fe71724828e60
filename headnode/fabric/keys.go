package fabric

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"regexp"

	"nereid/api"
)

// Keys of this package; doc.go explains them.
const (
	vlanPrefix    = "fabric/vlan/"
	namePrefix    = "fabric/name/"
	vniPrefix     = "fabric/vni/"
	freedPrefix   = "fabric/freed/"
	transitPrefix = "fabric/transit/"
	macPrefix     = "fabric/mac/"
	atPrefix      = "fabric/at/"
)

func vniHex(vni uint32) string { return fmt.Sprintf("%06x", vni) }

func vlanKey(owner string, vlan int) string { return fmt.Sprintf("%s%s/%04d", vlanPrefix, owner, vlan) }
func nameKey(owner, name string) string     { return namePrefix + owner + "/" + name }
func vniKey(vni uint32) string              { return vniPrefix + vniHex(vni) }

func macKey(vni uint32, mac, ip string) string {
	return macPrefix + vniHex(vni) + "/" + mac + "/" + ip
}

func atKey(underlay string, vni uint32, ip string) string {
	return atPrefix + underlay + "/" + vniHex(vni) + "/" + ip
}

// addrHex is an address in a key.
func addrHex(a netip.Addr) string {
	a = a.Unmap()
	b := a.AsSlice()
	if a.Is4() {
		return "4" + hex.EncodeToString(b)
	}
	return "6" + hex.EncodeToString(b)
}

// parseAddrHex is the inverse of addrHex.
func parseAddrHex(s string) (netip.Addr, error) {
	if len(s) == 1+2*4 && s[0] == '4' || len(s) == 1+2*16 && s[0] == '6' {
		if b, err := hex.DecodeString(s[1:]); err == nil {
			a, _ := netip.AddrFromSlice(b)
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("address %q in a key: not in the form of this package", s)
}

var (
	uuidRE = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	nameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)
)

// maxVNI is the greatest of the 24 bits (RFC 7348, section 5).
const maxVNI = 1<<24 - 1

func refuse(status int, code api.Code, next, format string, args ...any) *api.Problem {
	return &api.Problem{Title: http.StatusText(status), Status: status, Code: code, Detail: fmt.Sprintf(format, args...), Next: next}
}

func invalid(next, format string, args ...any) *api.Problem {
	return refuse(http.StatusUnprocessableEntity, api.CodeInvalid, next, format, args...)
}

// canonical checks an entry and gives its parts the form that is stored.
func canonical(e api.MapEntry) (api.MapEntry, netip.Addr, error) {
	ip, err := host(e.IP)
	if err != nil {
		return e, ip, invalid("give the address of one interface", "address %.64q of a map entry: %v", e.IP, err)
	}
	mac, err := canonicalMAC(e.MAC)
	if err != nil {
		return e, ip, err
	}
	underlay, err := host(e.Underlay)
	if err != nil {
		return e, ip, invalid("give the server an address on the underlay first", "underlay address %.64q of %v: %v", e.Underlay, ip, err)
	}
	return api.MapEntry{IP: ip.String(), MAC: mac, Underlay: underlay.String()}, ip, nil
}

func canonicalMAC(s string) (string, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 || hw[0]&1 != 0 || hw.String() == "00:00:00:00:00:00" {
		return "", invalid("write it as 52:54:00:12:34:56", "%.64q is no MAC address of an interface", s)
	}
	return hw.String(), nil
}

// host parses an address that one interface can have.
func host(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch a = a.Unmap(); {
	case err != nil:
		return a, err
	case a.Zone() != "":
		return a, fmt.Errorf("it has a zone")
	case a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return a, fmt.Errorf("no interface can have it")
	}
	return a, nil
}
