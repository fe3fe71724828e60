package api

import "testing"

func TestPlural(t *testing.T) {
	for thing, many := range map[string]string{
		"server": "servers", "address": "addresses", "entry": "entries", "key": "keys", "switch": "switches", "NIC tag": "NIC tags",
		"box": "boxes", "dash": "dashes", "VLAN": "VLANs", "mirror vdev": "mirror vdevs",
	} {
		for n, want := range map[int]string{0: "0 " + many, 1: "1 " + thing, 2: "2 " + many, 12: "12 " + many} {
			if got := Plural(n, thing); got != want {
				t.Errorf("%d of %q: %q, want %q", n, thing, got, want)
			}
		}
	}
}
