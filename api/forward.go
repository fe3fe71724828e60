package api

import "net/url"

// FabricForward is a port forward: what comes to a port of the account's gateway
// servers' external addresses goes to an instance on its fabric.
type FabricForward struct {
	UUID        string   `json:"uuid"`
	Owner       string   `json:"owner_uuid"`
	Protocol    string   `json:"protocol" enum:"tcp,udp"`
	Port        uint16   `json:"port" maximum:"32767" doc:"external; one in the datacenter for each protocol; 0 in a request: a free one is chosen"`
	IP          string   `json:"ip" doc:"address of a NIC of the account, on a fabric network with internet_nat"`
	ToPort      uint16   `json:"to_port" doc:"of the instance; 0 in a request: the external one"`
	Description string   `json:"description,omitempty"`
	MAC         string   `json:"mac,omitempty" doc:"read-only: the NIC it goes to"`
	Addresses   []string `json:"addresses" doc:"read-only: the external addresses where it answers now; any will do"`
	Revision    string   `json:"revision,omitempty" doc:"ETag"`
}

// FabricForwardUpdate changes a port forward; absent fields stay.
type FabricForwardUpdate struct {
	IP          *string `json:"ip,omitempty"`
	ToPort      *uint16 `json:"to_port,omitempty"`
	Description *string `json:"description,omitempty"`
}

// FabricForwards are the port forwards of an account, by UUID.
func (c *Client) FabricForwards(owner string) Objects[FabricForward, FabricForwardUpdate] {
	return Objects[FabricForward, FabricForwardUpdate]{c, "/v1/accounts/" + url.PathEscape(owner) + "/fabric/forwards"}
}
