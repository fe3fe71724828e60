package storage

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nereid/api"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write golden files instead of comparing with them")

const diskFixtures = "../../fixtures/disks"

func intp(n int) *int { return &n }

// TestRunLayoutGolden compares the plan, or the refusal, of every disk list in
// fixtures/disks with the text beside it.
func TestRunLayoutGolden(t *testing.T) {
	tests := []struct {
		name string // of the golden file
		list string
		opt  Options
	}{
		{"1-virtio", "1-virtio", Options{}},
		{"1-virtio-mirror", "1-virtio", Options{Layout: "mirror"}},
		{"2-virtio", "2-virtio", Options{}},
		{"2-virtio-single", "2-virtio", Options{Layout: "single"}},
		{"2-virtio-exclude", "2-virtio", Options{Exclude: []string{"/dev/vda"}}},
		{"3-sata", "3-sata", Options{}},
		{"3-sata-raidz1", "3-sata", Options{Layout: "raidz1"}},
		{"3-sata-raidz2", "3-sata", Options{Layout: "raidz2"}},
		{"4-sas", "4-sas", Options{}},
		{"4-sas-raidz2", "4-sas", Options{Layout: "raidz2"}},
		{"4-sas-raidz2-1spare", "4-sas", Options{Layout: "raidz2", Spares: intp(1)}},
		{"6-nvme", "6-nvme", Options{}},
		{"12-sas", "12-sas", Options{}},
		{"12-sas-0spares", "12-sas", Options{Spares: intp(0)}},
		{"12-sas-raidz3", "12-sas", Options{Layout: "raidz3"}},
		{"12-hdd-4-ssd", "12-hdd-4-ssd", Options{}},
		{"2-hdd-1-ssd", "2-hdd-1-ssd", Options{}},
		{"1-hdd-2-ssd", "1-hdd-2-ssd", Options{}},
		{"24-sas", "24-sas", Options{}},
		{"24-sas-raidz1-1spare", "24-sas", Options{Layout: "raidz1", Spares: intp(1)}},
		{"36-sas", "36-sas", Options{}},
		{"36-sas-99spares", "36-sas", Options{Spares: intp(99)}},
		{"odd-sizes", "odd-sizes", Options{}},
		{"2-unlike", "2-unlike", Options{}},
		{"usb-and-bmc", "usb-and-bmc", Options{}},
		{"foreign-data", "foreign-data", Options{}},
		{"foreign-data-wipe", "foreign-data", Options{Wipe: []string{"sdb", "/dev/disk/by-id/wwn-0x5000c50000000003"}}},
		{"foreign-data-exclude", "foreign-data", Options{Exclude: []string{"sdb", "sdc"}}},
		{"all-in-use", "all-in-use", Options{}},
		{"none", "none", Options{}},
		{"sas-2-paths", "sas-2-paths", Options{}},
		{"sas-2-paths-exclude", "sas-2-paths", Options{Exclude: []string{"sdb"}}},
		{"sas-2-paths-distinct", "sas-2-paths", Options{Distinct: []string{"sda", "sdb"}}},
		{"sas-shelf-2-paths", "sas-shelf-2-paths", Options{}},
		{"sas-shelf-2-paths-exclude", "sas-shelf-2-paths", Options{Exclude: []string{"sde", "sdf", "sdg", "sdh"}}},
		{"iscsi-2-paths", "iscsi-2-paths", Options{}},
		{"fc-paths-in-use", "fc-paths-in-use", Options{}},
		{"fc-paths-in-use-exclude", "fc-paths-in-use", Options{Exclude: []string{"sda"}}},
		{"unknown-disk", "2-virtio", Options{Wipe: []string{"vdz"}}},
		{"unknown-layout", "2-virtio", Options{Layout: "raid5"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in, err := os.ReadFile(filepath.Join(diskFixtures, tt.list+".json"))
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := RunLayout(bytes.NewReader(in), tt.opt, &got); err != nil {
				fmt.Fprintf(&got, "refused: %v\n", err)
			}
			golden := filepath.Join(diskFixtures, tt.name+".plan")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLayoutRefusals(t *testing.T) {
	disk := api.Disk{Name: "sda", SizeBytes: 1 << 40}
	tests := []struct {
		name  string
		disks []api.Disk
		opt   Options
		want  error
	}{
		{"none", nil, Options{}, ErrNoDisks},
		{"twice", []api.Disk{disk, disk}, Options{}, ErrDiskList},
		{"path", []api.Disk{{Name: "../sda", SizeBytes: 1 << 40}}, Options{}, ErrDiskList},
		{"negative size", []api.Disk{{Name: "sda", SizeBytes: -1}}, Options{}, ErrDiskList},
		{"foreign", []api.Disk{{Name: "sda", SizeBytes: 1 << 40, Content: "a GPT partition table"}}, Options{}, ErrForeignData},
		{"negative spares", []api.Disk{disk}, Options{Spares: intp(-1)}, ErrImpossible},
		{"spare of one", []api.Disk{disk}, Options{Spares: intp(1)}, ErrImpossible},
		{"too many", make([]api.Disk, maxDisks+1), Options{}, ErrDiskList},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Layout(tt.disks, tt.opt); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// checkPlan reports what must hold for every plan.
func checkPlan(disks []api.Disk, p api.PoolPlan) error {
	bySize, solid := map[string]int64{}, map[string]bool{}
	for _, d := range disks {
		bySize[d.Name], solid[d.Name] = d.SizeBytes, d.SolidState
	}
	var used []string
	for _, v := range append(slices.Clone(p.Vdevs), p.Log...) {
		used = append(used, v.Disks...)
		if sh, ok := shapes(v.Type); ok && (len(v.Disks) < sh.min || len(v.Disks) > maxWidth) {
			return fmt.Errorf("%s of %d disks", v.Type, len(v.Disks))
		}
	}
	// zpool create takes vdevs of one type and width only, without force.
	for _, v := range p.Vdevs {
		if v.Type != p.Vdevs[0].Type || len(v.Disks) != len(p.Vdevs[0].Disks) {
			return fmt.Errorf("vdevs of unlike shape: %+v", p.Vdevs)
		}
		for _, name := range v.Disks {
			if solid[name] != solid[p.Vdevs[0].Disks[0]] {
				return fmt.Errorf("disk %s carries data with disks of the other kind", name)
			}
			// The two largest go together when no two are alike.
			if a, b := bySize[v.Disks[0]], bySize[name]; len(p.Vdevs) > 1 && (a > b+b/10 || b > a+a/10) {
				return fmt.Errorf("vdev %v mixes sizes", v.Disks)
			}
		}
	}
	for _, name := range slices.Concat(p.Cache, vdevDisks(p.Log)) {
		if !solid[name] || solid[p.Vdevs[0].Disks[0]] {
			return fmt.Errorf("disk %s is a log or cache device", name)
		}
	}
	if len(p.Alternatives) > 2 {
		return fmt.Errorf("%d alternatives", len(p.Alternatives))
	}
	used = slices.Concat(used, p.Cache, p.Spares)
	for _, s := range p.Skipped {
		used = append(used, s.Disk)
	}
	if len(used) != len(disks) {
		return fmt.Errorf("%d disks are used or skipped, there are %d", len(used), len(disks))
	}
	slices.Sort(used)
	if len(slices.Compact(used)) != len(disks) {
		return errors.New("a disk is used twice")
	}
	var sum int64
	for _, name := range used {
		n, ok := bySize[name]
		if !ok {
			return fmt.Errorf("disk %s is not in the list", name)
		}
		sum += n
	}
	if p.CapacityBytes <= 0 || p.CapacityBytes > sum {
		return fmt.Errorf("capacity %d, disks together %d", p.CapacityBytes, sum)
	}
	if len(p.Vdevs) == 0 || len(p.Why) == 0 || len(p.Digest) != 64 {
		return errors.New("incomplete plan")
	}
	return nil
}

func vdevDisks(vs []api.Vdev) (names []string) {
	for _, v := range vs {
		names = append(names, v.Disks...)
	}
	return names
}

// TestLayoutProperties lays out random lists: every disk is used at most once,
// capacity is at most the sum, and the order of the list does not matter.
func TestLayoutProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	sizes := []int64{1 << 30, 400e9, 1e12, 1.05e12, 4e12, 4.1e12, 8e12, 1 << 20}
	layouts := []string{"", "", "", "single", "mirror", "raidz1", "raidz2", "raidz3"}
	planned := 0
	for i := range 3000 {
		var disks []api.Disk
		kinds := 1 + r.IntN(len(sizes))
		for j := range 1 + r.IntN(40) {
			d := api.Disk{Name: fmt.Sprintf("sd%d", j), SizeBytes: sizes[r.IntN(kinds)], SolidState: r.IntN(4) == 0}
			d.Removable = r.IntN(30) == 0
			if r.IntN(30) == 0 {
				d.InUseBy = "mount /"
			}
			disks = append(disks, d)
		}
		o := Options{Layout: layouts[r.IntN(len(layouts))]}
		if r.IntN(3) == 0 {
			o.Spares = intp(r.IntN(5))
		}
		p, err := Layout(disks, o)
		if err != nil && !errors.Is(err, ErrImpossible) && !errors.Is(err, ErrNoDisks) {
			t.Fatalf("list %d: %v", i, err)
		}
		shuffled := slices.Clone(disks)
		r.Shuffle(len(shuffled), func(a, b int) { shuffled[a], shuffled[b] = shuffled[b], shuffled[a] })
		q, err2 := Layout(shuffled, o)
		if diff := cmp.Diff(p, q); diff != "" || (err == nil) != (err2 == nil) {
			t.Fatalf("list %d: order matters:\n%s%v %v", i, diff, err, err2)
		}
		if err != nil {
			continue
		}
		planned++
		if err := checkPlan(disks, p); err != nil {
			t.Fatalf("list %d %+v %+v: %v", i, disks, o, err)
		}
		if o.Spares != nil && len(p.Spares) != *o.Spares {
			t.Fatalf("list %d: %d spares, asked for %d", i, len(p.Spares), *o.Spares)
		}
	}
	if planned < 1000 {
		t.Errorf("only %d of 3000 lists gave a plan", planned)
	}
}

func FuzzRunLayout(f *testing.F) {
	lists, err := filepath.Glob(filepath.Join(diskFixtures, "*.json"))
	if err != nil || len(lists) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, l := range lists {
		b, err := os.ReadFile(l)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, "", -1)
		f.Add(b, "raidz2", 1)
	}
	f.Fuzz(func(t *testing.T, in []byte, layout string, spares int) {
		o := Options{Layout: layout}
		if spares >= 0 {
			o.Spares = &spares
		}
		var out bytes.Buffer
		if err := RunLayout(bytes.NewReader(in), o, &out); err != nil {
			return
		}
		var disks []api.Disk
		var p api.PoolPlan
		if err := json.NewDecoder(bytes.NewReader(in)).Decode(&disks); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		if err := checkPlan(disks, p); err != nil && !strings.ContainsRune(out.String(), '\uFFFD') {
			t.Fatalf("%v\n%s", err, out.String())
		}
	})
}

func TestNaturalCompare(t *testing.T) {
	got := []string{"sdaa", "nvme10n1", "sdb", "nvme2n1", "sda", "vda"}
	slices.SortFunc(got, naturalCompare)
	want := "sda sdb vda nvme2n1 nvme10n1 sdaa"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("got %s, want %s", s, want)
	}
}
