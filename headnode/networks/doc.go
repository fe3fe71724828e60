// Package networks keeps the datacenter's networks: NIC tags and which NICs and
// bonds of servers provide them, networks and pools, NICs and their addresses.
//
// It is a subject: functions over a store.Tx. A function that returns an error may
// have written before; the transaction is then to be given up, which returning the
// error from Store.Update does. Refusals are *api.Problem.
//
// Keys, all below "networks/" (hex addresses have 8 digits for IPv4, 32 for IPv6):
//
//   - tag/NAME, network/UUID, pool/UUID, bond/SERVER/NAME, nic/MAC, settings: the
//     objects, as package api has them
//   - name/NAME, fabric-name/OWNER/NAME: what has that name
//   - segment/tag/TAG/VLAN/UUID, segment/vni/VNI/UUID, fabric/OWNER/UUID,
//     subnet/HEX/BITS/UUID: networks by where they are; pool-of/NETWORK/POOL
//   - place/{tag/TAG/VLAN,vni/VNI,fabric/OWNER}/FAMILY/HEX/BITS/UUID: networks that may
//     not overlap, by their subnets; places-taken: those of all networks are there
//   - phys/SERVER/MAC, phys-mac/MAC, provider/TAG/SERVER: physical NICs and what
//     provides a tag
//   - nic-by/{o,b,s,n}/UUID/MAC: NICs by owner, by what they belong to, by server
//     and by network; vni/VNI/SERVER/MAC; underlay/SERVER/FAMILY, underlay-of/NETWORK/MAC
//   - hosts/SERVER/OWNER/VNI/MAC: NICs of fabrics by server and account
//   - owned/SERVER/OWNER/MAC: ports by server and account
//   - ports-taken: the ports of all NICs are in the journal (PortSet); owned-taken: and
//     by account, with their firewall tags
//   - ip/NETWORK/HEX: an address that is in use, reserved, or was given back
//   - allowed/NETWORK/BITS/HEX/OWNER/MAC: NICs by the prefixes in their allowed_ips;
//     allowed-taken: those of all NICs are there
//   - free/NETWORK/HEX of a span's last address: its first address
//   - freed/NETWORK/TIME/HEX: addresses given back, the oldest first
//   - admin: the UUID of the network that servers boot from
//
// Every address that a network may give out is in exactly one place: in a free
// span, in the queue of those given back, or in a record of its use. A span is
// keyed by its last address, so that the one which holds or follows an address is
// found by one seek; giving out an address reads the first span and writes it
// back one shorter, whatever the size of the network. An address given back waits
// in the queue for Rest before it joins the spans, and is used earlier only when
// there are no spans left.
package networks
