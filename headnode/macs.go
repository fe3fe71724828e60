package headnode

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/addresses"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// machineOf says which machine has a MAC, as a sentence goes on behind the MAC: the
// inventory knows servers' NICs, DHCP those that have booted and are not enrolled.
// server is its UUID where it has one. who is empty when no machine has it.
func (s *Server) machineOf(tx store.Tx, mac string, now time.Time) (server, who string, err error) {
	r, found, err := inventory.Having(tx, mac)
	if err != nil {
		return "", "", err
	}
	if found {
		return r.UUID, fmt.Sprintf("is a NIC of server %s (%s)", r.Hostname, r.UUID), nil
	}
	l, err := addresses.ByMAC(tx, mac)
	switch {
	case isNotFound(err):
		return "", "", nil
	case err != nil:
		return "", "", err
	case l.Active(now):
		return l.Server, fmt.Sprintf("is the NIC of a machine that leases %s", l.Address), nil
	}
	return "", "", nil
}

// routerMAC says what of the fabrics has a MAC; empty: nothing.
func routerMAC(mac string) string {
	var transit [4]byte
	switch n, _ := fmt.Sscanf(mac, "02:00:%02x:%02x:%02x:%02x", &transit[0], &transit[1], &transit[2], &transit[3]); {
	case strings.HasPrefix(mac, networks.GatewayMACPrefix+":"):
		return "is the MAC of the gateway of a fabric VLAN"
	case n == 4 && networks.InTransit(transit):
		return "is the MAC of an account's router"
	}
	return ""
}

// macTaken refuses the MAC that a NIC is to have when a machine, a router or the
// head node has it. A server's own NIC may have one of its server's.
func (s *Server) macTaken(tx store.Tx, nic api.NetworkNIC) error {
	mac, ok := inventory.ParseMAC(nic.MAC)
	if !ok {
		return nil // networks says what is wrong with it
	}
	who := routerMAC(mac)
	if i, err := net.InterfaceByName(s.answers.Admin.Interface); err == nil && i.HardwareAddr.String() == mac {
		who = "is the NIC of the head node on the admin network"
	}
	if held, err := heldMAC(tx, mac); err != nil {
		return err
	} else if held != "" {
		who = held
	}
	if who == "" {
		server, has, err := s.machineOf(tx, mac, s.now())
		if err != nil || has == "" || nic.BelongsToType == api.BelongsToServer && server == nic.BelongsTo && server != "" {
			return err
		}
		who = has
	}
	return refuse(http.StatusConflict, api.CodeConflict, "take another MAC, or leave it out and one is made", "%s %s", mac, who)
}

// freshMAC makes a MAC that no NIC and no machine has.
func (s *Server) freshMAC(tx store.Tx) (string, error) {
	return networks.NewMAC(tx, s.drawMAC, func(mac string) (bool, error) {
		who, err := heldMAC(tx, mac)
		if err == nil && who == "" {
			_, who, err = s.machineOf(tx, mac, s.now())
		}
		return who != "", err
	})
}

// ownNICs refuses to let a server provide something by a NIC of another machine.
// physical are the MACs that the server reported; those are its own.
func (s *Server) ownNICs(tx store.Tx, server string, physical []string, macs ...string) error {
	for _, m := range macs {
		mac, ok := inventory.ParseMAC(m)
		if !ok || slices.Contains(physical, mac) {
			continue // networks says what is wrong with it
		}
		other, who, err := s.machineOf(tx, mac, s.now())
		if err != nil {
			return err
		}
		if who == "" {
			who = routerMAC(mac)
		}
		if who != "" && other != server {
			return refuse(http.StatusConflict, api.CodeConflict, "choose one of the server's physical NICs", "%s %s", mac, who)
		}
	}
	return nil
}
