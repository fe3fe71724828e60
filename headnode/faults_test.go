package headnode

import (
	"strings"
	"testing"
)

// All that is wrong with a request is told at once, whoever finds it.
func TestAllFaultsAtOnce(t *testing.T) {
	h, rack := objectRack(t)
	server := rack["/v1/servers/{id}"]["id"]
	long := strings.Repeat("x", 2000)
	for _, tt := range []struct {
		method, path, body string
		want               []string
	}{
		{"POST", "/v1/nic-tags", `{"name":"no name","mtu":10,"description":"` + long + `","colour":"red"}`,
			[]string{"colour: ", `name "no name"`, "MTU 10 ", "2000 bytes"}},
		{"POST", "/v1/networks", `{"uuid":"x","name":"no name","nic_tag":"nowhere","vlan_id":1,"subnet":"10.9.0.1/24","resolvers":["10.9.0.300","2.2.2"],
			"owner_uuids":["y"],"internet_nat":true,"gatway":"10.9.0.1"}`,
			[]string{"gatway: ", `"x" is not a UUID`, `name "no name"`, `"nowhere"`, "VLAN 1:", "10.9.0.1/24", "10.9.0.300", "2.2.2", `"y" is not a UUID`, "internet_nat"}},
		{"POST", "/v1/networks", `{"name":"n","nic_tag":"external","subnet":"10.9.0.0/24","provision_start_ip":"10.9.0.0","provision_end_ip":"10.8.0.1","gateway":"10.7.0.1",
			"routes":{"10.1.0.0/16":"10.6.0.1","10.2.0.1/16":"10.9.0.2"},"mtu":9500}`,
			[]string{"start 10.9.0.0", "end 10.8.0.1", "gateway 10.7.0.1", "10.6.0.1", "10.2.0.1/16", "MTU 9500"}},
		{"POST", "/v1/networks", `{"name":"external","nic_tag":"external","subnet":"10.88.88.128/25"}`, []string{"the name external", "10.88.88.0/24"}},
		{"PATCH", at("/v1/networks/{id}", rack["/v1/networks/{id}"]), `{"subnet":"10.1.0.0/24","gatway":"x","name":"no name","gateway":"10.1.0.1","mtu":99}`,
			[]string{"subnet: it cannot be set", "gatway: ", `name "no name"`, "gateway 10.1.0.1", "MTU 99"}},
		// What has the wrong type is told beside what is wrong with the rest.
		{"POST", "/v1/nic-tags", `{"name":"no name","mtu":"9000","description":5}`, []string{`mtu: "9000" is not`, "description: 5 is not a string", `name "no name"`}},
		{"POST", "/v1/networks", `{"name":"no name","nic_tag":"nowhere","vlan_id":[1],"subnet":"10.9.0.1/24","resolvers":["10.9.0.300",7],"owner_uuids":"y","gatway":true}`,
			[]string{"gatway: ", `name "no name"`, `"nowhere"`, "vlan_id: [1] is not", "10.9.0.1/24", "10.9.0.300", "resolvers[1]: 7 is not", `owner_uuids: "y" is not a list`}},
		{"PATCH", "/v1/servers/" + server, `{"hostname":"no name","platform":20260101}`, []string{"no name", "platform: 20260101 is not a string"}},
		{"POST", "/v1/network-pools", `{"name":"no name","networks":["nowhere","external","nobody"],"owner_uuids":["y"]}`,
			[]string{`name "no name"`, `"nowhere"`, `"nobody"`, `"y" is not a UUID`}},
		{"POST", "/v1/nics", `{"owner_uuid":"o","belongs_to_uuid":"b","belongs_to_type":"cat","state":"asleep","addresses":[{"network_uuid":"nowhere"},{"network_uuid":"external","ip":"10.1"}],
			"allowed_ips":["10.300.0.0"],"tags":{"":"x"},"mtu":9}`,
			[]string{"mtu: ", `"o" is not a UUID`, `"b" is not a UUID`, `"cat"`, `"asleep"`, "10.300.0.0", "firewall tag", `"nowhere"`, "10.1"}},
		{"POST", "/v1/servers/" + server + "/bonds", `{"name":"Bond 0","mode":"hot","macs":["52:54:00:00:00:99","zz"],"nic_tags_provided":["nowhere"],"color":1}`,
			[]string{"color: ", `"Bond 0"`, `"hot"`, "52:54:00:00:00:99", `"zz"`}},
		{"POST", "/v1/firewall/rules", `{"rule":"FROM any","description":"` + long + `","uuid":"x","colour":1}`, []string{"colour: ", "no owner", "the rule is not valid", "2000 bytes", `"x" is no UUID`}},
		{"POST", "/v1/accounts/nobody/fabric/vlans", `{"vlan_id":1,"name":"no name","description":"` + long + `"}`, []string{`"nobody"`, "VLAN 1:", `"no name"`, "2000 bytes"}},
		{"POST", at("/v1/accounts/{owner}/fabric/forwards", rack["/v1/accounts/{owner}/fabric/forwards/{id}"]), `{"protocol":"icmp","port":40000,"ip":"10.0.1","description":"` + long + `"}`,
			[]string{`"icmp"`, "port 40000", `"10.0.1"`, "2000 bytes"}},
		{"PUT", "/v1/fabric-settings", `{"underlay_nic_tag":"underlay","overlay_mtu":9,"mac_prefix":"x","nat_network":"nowhere"}`, []string{"MTU 9:", `"x"`, `"nowhere"`}},
		{"PUT", "/v1/servers/" + server + "/nic-tags", `{"mac":"52:54:00:00:00:01","nic_tags_provided":["nowhere","nobody"],"x":1}`, []string{"x: ", `"nowhere"`, `"nobody"`}},
		{"POST", "/v1/servers/" + server + "/setup", `{"layout":"triangle","spares":70,"pool":"1","wipe":["a b"]}`, []string{`"triangle"`, "70 spares", `pool "1"`, `"a b"`}},
		{"PATCH", "/v1/servers/" + server, `{"hostname":"no name","platform":"yesterday","state":"running"}`, []string{"state: ", "no name", "yesterday"}},
		{"POST", "/v1/tokens", `{"name":"","ttl":5,"scope":"all"}`, []string{"scope: ", "name: ", "ttl: "}},
		{"PATCH", at("/v1/nics/{id}", rack["/v1/nics/{id}"]), `{"state":"asleep","owner_uuid":"o","mac":"x"}`, []string{"mac: it cannot be set", `"asleep"`, `"o" is not a UUID`}},
	} {
		if a := h.ask(tt.method, tt.path, tt.body); a.status != 422 && a.status != 409 {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, a.status, a.body)
		} else {
			for _, w := range tt.want {
				if !strings.Contains(a.problem.Error(), w) {
					t.Errorf("%s %s: %q is not in %s", tt.method, tt.path, w, a.problem.Error())
				}
			}
			if len(a.problem.Errors) != len(tt.want) && tt.path != "/v1/firewall/rules" {
				t.Errorf("%s %s: %d faults told, want %d: %s", tt.method, tt.path, len(a.problem.Errors), len(tt.want), a.problem.Error())
			}
		}
	}
}
