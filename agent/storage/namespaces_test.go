package storage

import (
	"errors"
	"strings"
	"testing"

	"nereid/api"
)

// namespaces is a drive whose kernel names are given.
func namespaces(serial string, names ...string) (out []api.Disk) {
	for _, n := range names {
		out = append(out, api.Disk{Name: n, Model: "ACME P5", Serial: serial, Transport: "nvme", WWN: "eui.0025385" + serial + n, SizeBytes: tb, SolidState: true})
	}
	return out
}

// TestNamespacesOfOneDrive: a mirror of two namespaces of one NVMe drive dies with the
// drive, so they are no two disks unless an operator says so.
func TestNamespacesOfOneDrive(t *testing.T) {
	two := append(namespaces("S1", "nvme0n1", "nvme0n2"), namespaces("S2", "nvme1n1")...)
	_, err := Layout(two, Options{})
	want := "nvme0n1 and nvme0n2 are 2 namespaces of one drive (NVMe drive ACME P5, serial number S1), which fail together"
	if !errors.Is(err, ErrOneDisk) || !strings.Contains(err.Error(), want) {
		t.Fatalf("got %v", err)
	}
	for _, c := range []struct {
		name  string
		disks []api.Disk
		opt   Options
		want  string
	}{
		{"one is left alone", two, Options{Exclude: []string{"nvme0n2"}}, "nvme0n1 nvme1n1"},
		{"they are used all the same", two[:2], Options{Distinct: []string{"nvme0n1", "nvme0n2"}}, "nvme0n1 nvme0n2"},
		{"drives that show no serial number", append(namespaces("0000", "nvme0n1"), namespaces("0000", "nvme1n1")...), Options{}, "nvme0n1 nvme1n1"},
	} {
		p, err := Layout(c.disks, c.opt)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := strings.Join(p.Vdevs[0].Disks, " "); got != c.want {
			t.Errorf("%s: vdev of %s, want %s", c.name, got, c.want)
		}
	}
	two[0].InUseBy = "mount /boot"
	p, err := Layout(two, Options{})
	if err != nil || strings.Join(p.Vdevs[0].Disks, " ") != "nvme0n2 nvme1n1" {
		t.Errorf("beside a namespace in use: %+v %v", p.Vdevs, err)
	}
	// Two paths to one namespace are told as what they are.
	paths := append(namespaces("S1", "nvme0n1"), namespaces("S1", "nvme2n1")...)
	paths[1].WWN = paths[0].WWN
	if _, err := Layout(paths, Options{}); !errors.Is(err, ErrOneDisk) || !strings.Contains(err.Error(), "are 2 paths to one disk") {
		t.Errorf("paths: %v", err)
	}
}
