package sysinfo

import (
	"path/filepath"
	"regexp"
	"strings"

	"nereid/api"
)

var pciRE = regexp.MustCompile(`^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

// busRE is a bus or a device of one below the PCI device that drives it.
var busRE = regexp.MustCompile(`^(usb|virtio)[0-9]+$`)

// arpEther is ARPHRD_ETHER (linux/if_arp.h) in /sys/class/net/*/type.
const arpEther = 1

// nics lists Ethernet interfaces with a device behind them, by name. Virtual
// functions (SR-IOV) are parts of another NIC and are not listed.
func (t tree) nics() []api.NIC {
	nics := []api.NIC{}
	for _, name := range t.names(t.sys("class", "net")) {
		dir := t.sys("class", "net", name)
		device := t.real(filepath.Join(dir, "device"))
		if device == "" || t.number(filepath.Join(dir, "type")) != arpEther || t.exists(filepath.Join(dir, "device", "physfn")) {
			continue
		}
		n := api.NIC{
			Name:   name,
			MAC:    strings.ToLower(t.text(filepath.Join(dir, "address"))),
			MTU:    int(t.number(filepath.Join(dir, "mtu"))),
			LinkUp: t.number(filepath.Join(dir, "carrier")) == 1,
		}
		// A member of a bond carries the bond's address; its own is kept here.
		if mac := strings.ToLower(t.text(filepath.Join(dir, "bonding_slave", "perm_hwaddr"))); mac != "" {
			n.MAC = mac
		}
		if d := t.real(filepath.Join(dir, "device", "driver")); d != "" {
			n.Driver = filepath.Base(d)
		}
		for _, part := range strings.Split(device, "/") {
			if pciRE.MatchString(part) {
				n.PCIAddress, n.Bus = part, "pci" // the last one: bridges come before the NIC
			} else if m := busRE.FindStringSubmatch(part); m != nil {
				n.Bus = m[1]
			}
		}
		// The kernel says -1 or an error without a link.
		if s := t.number(filepath.Join(dir, "speed")); n.LinkUp && s > 0 {
			n.SpeedMbps = int(s)
		}
		nics = append(nics, n)
	}
	return nics
}
