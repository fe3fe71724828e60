package headnode

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"nereid/api"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// unexpectedAlerts say of each NIC that a server has, and that it was not told of, how
// it becomes known.
func unexpectedAlerts(tx store.Tx, r inventory.Record, rep *api.Report, all func() ([]api.Network, error)) ([]string, error) {
	if rep == nil {
		return nil, nil
	}
	var out []string
	for _, u := range rep.UnexpectedNICs {
		// What goes into a command is what it must be, whatever the server says.
		u.Instance, u.Owner = uuidOr(u.Instance, "UUID"), uuidOr(u.Owner, "")
		what := fmt.Sprintf("NIC %s of instance %s", u.MAC, u.Instance)
		u.Addresses = slices.DeleteFunc(slices.Clone(u.Addresses), func(a string) bool { _, err := netip.ParsePrefix(a); return err != nil })
		if len(u.Addresses) > 0 {
			what += " (" + strings.Join(u.Addresses, ", ") + ")"
		}
		state := "it stays as it is"
		if u.Closed {
			state = "it stays, but its agent has lost its rules and lets nothing through"
		}
		n, err := networks.GetNIC(tx, u.MAC)
		switch {
		case err == nil && n.Server == r.UUID:
			continue // the server has not heard of it yet
		case err == nil:
			out = append(out, fmt.Sprintf("%s is here, and the head node has it elsewhere; %s. If it belongs here: nereid nic move %s %s", what, state, u.MAC, r.Hostname))
			continue
		case isProblem(err, api.CodeInvalid):
			continue // no agent of ours says that
		case !isProblem(err, api.CodeNotFound):
			return nil, err
		}
		create, err := adoption(tx, r, u, all)
		if err != nil {
			return nil, err
		}
		out = append(out, fmt.Sprintf("%s is here, and the head node does not know it; %s. To make it known: %s", what, state, create))
	}
	return out, nil
}

func uuidOr(s, other string) string {
	if id, ok := inventory.ParseUUID(s); ok {
		return id
	}
	return other
}

// adoption is the command that makes an unexpected NIC known. NETWORK stands for a
// network that there is not, as it was made after the head node's backup.
func adoption(tx store.Tx, r inventory.Record, u api.UnexpectedNIC, all func() ([]api.Network, error)) (string, error) {
	command := fmt.Sprintf("nereid nic create --mac %s --on %s --belongs-to %s", u.MAC, r.Hostname, u.Instance)
	if _, found, err := instanceOf(tx, u.Instance); err != nil || !found {
		if err != nil {
			return "", err
		}
		command += " --belongs-to-type " + api.BelongsToOther
	}
	if u.Owner != "" {
		command += " --owner " + u.Owner
	}
	if len(u.Addresses) == 0 {
		return command + " --network NETWORK", nil
	}
	nets, err := all()
	if err != nil {
		return "", err
	}
	for _, text := range u.Addresses {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			continue
		}
		name := "NETWORK"
		for _, n := range nets {
			s, err := netip.ParsePrefix(n.Subnet)
			if err == nil && s == p.Masked() && n.VNI == u.VNI && (u.Tag == "" || n.NICTag == u.Tag) && (u.VNI != 0 || n.VLAN == u.VLAN) {
				name = n.UUID
			}
		}
		command += " --network " + name + "=" + p.Addr().String()
	}
	return command, nil
}
