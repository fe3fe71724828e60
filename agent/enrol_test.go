package agent

import (
	"encoding/json"
	"fmt"
	"testing"

	"nereid/api"
)

// TestShortened: hardware that is longer than an enrolment may be is sent without some
// of its disks; which MACs a machine has decides who it is, so all are sent.
func TestShortened(t *testing.T) {
	for _, tt := range []struct{ disks, want int }{{0, 0}, {200, 200}, {5000, 625}} {
		info := api.Sysinfo{}
		for i := range 100 {
			info.NICs = append(info.NICs, api.NIC{Name: fmt.Sprintf("enp%ds0f1np1", i), MAC: fmt.Sprintf("3c:ec:ef:00:00:%02x", i), Driver: "mlx5_core", PCIAddress: "0000:5e:00.1", Bus: "pci", LinkUp: true, SpeedMbps: 100000, MTU: 9000})
		}
		for i := range tt.disks {
			info.Disks = append(info.Disks, api.Disk{Name: fmt.Sprintf("sd%d", i), ID: fmt.Sprintf("dm-uuid-mpath-3600508b400105e210000900000%04x", i), Model: "HUH721212AL5200 SAS3 12TB", Serial: fmt.Sprintf("8CK3%08d", i),
				WWN: fmt.Sprintf("0x5000cca26f%06x", i), Transport: "sas", SizeBytes: 12000138625024, BlockBytes: 4096, InUseBy: "multipath map mpatha", Content: "a partition table with an LVM2 physical volume"})
		}
		got := shortened(info)
		b, err := json.Marshal(api.EnrolRequest{Sysinfo: got})
		if err != nil || len(got.NICs) != 100 || len(got.Disks) != tt.want || len(b) > api.MaxEnrol {
			t.Errorf("%d disks: %d NICs, %d disks, %d bytes, %v; want %d disks", tt.disks, len(got.NICs), len(got.Disks), len(b), err, tt.want)
		}
	}
}
