package headnode

import (
	"net/http"
	"reflect"

	"nereid/api"
)

// What cannot be set of each kind of object, and why. made are properties that the
// head node alone decides of, from the first; fixed are set when the object is made
// and never change. A property in neither is one of the object's update.

// noRevision is for what has a revision.
const noRevision = "the head node makes it; name the one you have seen in If-Match"

func networkMade() map[string]string {
	const why = "it is of fabric networks, which are made on a VLAN of their account's fabric (nereid fabric network create)"
	return map[string]string{"family": "it follows from the subnet", "fabric": why, "vni": why, "revision": noRevision}
}

func networkFixed() map[string]string {
	const why = "NICs are where it says; make another network and give them addresses of that"
	return map[string]string{"uuid": "it names the network", "nic_tag": why, "vlan_id": why, "subnet": why}
}

func fabricNetworkMade() map[string]string {
	return map[string]string{"fabric": "each network here is one", "vni": "it is the VLAN's", "nic_tag": "the underlay carries it", "revision": noRevision}
}

func fabricNetworkFixed() map[string]string {
	out := networkFixed()
	out["family"] = "it follows from the subnet"
	return out
}

func poolMade() map[string]string {
	const why = "it follows from the pool's networks"
	return map[string]string{"family": why, "nic_tags_present": why, "revision": noRevision}
}

func addressFixed() map[string]string {
	const path, nic = "the path says it", "it follows from the NIC that has the address"
	return map[string]string{"ip": path, "network_uuid": path, "free": nic, "belongs_to_uuid": nic, "belongs_to_type": nic, "mac": nic, "freed_at": nic}
}

func nicMade() map[string]string {
	const why = "it is that of the networks the NIC is on"
	return map[string]string{"nic_tag": why, "vlan_id": why, "vni": why, "mtu": why, "brand": "it is that of the instance", "created": "the head node notes it", "revision": noRevision}
}

func nicFixed() map[string]string {
	const another, flags = "make another NIC, and delete this one", "set it in flags, with its siblings"
	return map[string]string{"mac": "it names the NIC", "addresses": another, "belongs_to_type": another, "underlay": another,
		"allow_ip_spoofing": flags, "allow_mac_spoofing": flags, "allow_dhcp_spoofing": flags, "allow_restricted_traffic": flags, "allowed_ips": flags}
}

func ruleMade() map[string]string {
	return map[string]string{"created": "the head node notes it", "revision": noRevision}
}

func ruleFixed() map[string]string {
	const another = "make another rule, and delete this one"
	return map[string]string{"uuid": "it names the rule", "owner_uuid": another, "global": another}
}

func vlanMade() map[string]string {
	return map[string]string{"vni": "the head node chooses it", "revision": noRevision}
}

func vlanFixed() map[string]string {
	return map[string]string{"owner_uuid": "the path says it", "vlan_id": "the path says it; make another VLAN to have another number"}
}

func forwardMade() map[string]string {
	return map[string]string{"uuid": "the head node makes it", "mac": "it follows from ip", "addresses": "they are those of the account's gateway servers", "revision": noRevision}
}

func forwardFixed() map[string]string {
	const another = "make another forward, and delete this one"
	return map[string]string{"owner_uuid": "the path says it", "protocol": another, "port": another}
}

func serverFixed() map[string]string {
	out := map[string]string{}
	for name := range properties(reflect.TypeFor[api.Server]()) {
		out[name] = "it is observed, or follows from what is"
	}
	for name := range properties(reflect.TypeFor[api.ServerUpdate]()) {
		delete(out, name)
	}
	out["revision"] = noRevision
	for name, verb := range map[string]string{"approved": "approve", "set_up": "setup", "setup": "setup"} {
		out[name] = "there is a request of its own for that: POST /v1/servers/{id}/" + verb
	}
	return out
}

// agrees refuses a property of a new object that says otherwise than the path.
func agrees[T comparable](property string, says, path T) error {
	var none T
	if says == none || says == path {
		return nil
	}
	return refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "leave it out", "%s: it cannot be set: the path says it, and it is %v", property, path)
}
