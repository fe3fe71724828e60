//go:build vm

package storage

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nereid/api"
)

// TestRealLayouts: zpool create takes every shape of pool that is planned, as it
// is planned. Files stand in for the disks, so there are no cache devices, which
// zpool makes of block devices only.
func TestRealLayouts(t *testing.T) {
	r := newReal(t)
	for _, tt := range []struct {
		name  string
		disks []api.Disk
		opt   Options
		want  string // vdevs as zpool status lists them
	}{
		{"3 disks", shelf(group{3, "hdd", gib}), Options{}, "raidz1"},
		{"5 disks and a log", shelf(group{5, "hdd", gib}, group{2, "ssd", gib}), Options{}, "raidz2 mirror"},
		{"one disk and a log", shelf(group{1, "hdd", 2 * gib}, group{2, "ssd", gib}), Options{}, "mirror"},
		{"9 disks, mirrors and a spare", shelf(group{9, "hdd", gib}), Options{}, "mirror mirror mirror mirror"},
		{"two raidz2 and spares", shelf(group{16, "ssd", gib}), Options{}, "raidz2 raidz2"},
		{"three-way mirrors", shelf(group{6, "hdd", gib}), Options{Layout: "mirror", Width: 3}, "mirror mirror"},
		{"two sizes", shelf(group{4, "hdd", gib}, group{4, "hdd", 2 * gib}), Options{}, "raidz1 raidz1"},
		{"mirrors of two sizes", shelf(group{4, "hdd", gib}, group{2, "hdd", 2 * gib}), Options{}, "mirror mirror mirror"},
		{"5 unlike by less than a tenth", shelf(group{4, "hdd", gib}, group{1, "hdd", gib + 60<<20}), Options{}, "raidz2"},
	} {
		tt.opt.NoCache = true
		dir := t.TempDir()
		for i := range tt.disks {
			d := &tt.disks[i]
			d.ID = filepath.Join(dir, d.Name)
			if err := errors.Join(os.WriteFile(d.ID, nil, 0o600), os.Truncate(d.ID, d.SizeBytes)); err != nil {
				t.Fatal(err)
			}
		}
		plan, err := Layout(tt.disks, tt.opt)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		u := &setup{r.Storage, api.SetupSpec{ID: testSetup, Pool: "planned"}, func(string, *api.PoolPlan) {}}
		r.command(t, "zpool", u.createArgs(plan, tt.disks)...)
		status := r.command(t, "zpool", "status", "-P", "planned")
		var got []string
		for line := range strings.Lines(status) {
			for word := range strings.FieldsSeq(line) {
				if kind, _, _ := strings.Cut(word, "-"); kind != word && (kind == "mirror" || strings.HasPrefix(kind, "raidz")) {
					got = append(got, kind)
				}
			}
		}
		r.command(t, "zpool", "destroy", "planned")
		if !slices.Equal(got, strings.Fields(tt.want)) {
			t.Errorf("%s: vdevs %q, want %q", tt.name, got, tt.want)
		}
	}
}
