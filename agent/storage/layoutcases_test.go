package storage

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"nereid/api"
)

const (
	gb = int64(1e9)
	tb = int64(1e12)
)

// group is a number of disks of one kind and size.
type group struct {
	n    int
	kind string // hdd or ssd
	size int64
}

// shelf names disks h1, h2 ... and s1, s2 ...
func shelf(groups ...group) []api.Disk {
	var disks []api.Disk
	count := map[string]int{}
	for _, g := range groups {
		for range g.n {
			count[g.kind]++
			disks = append(disks, api.Disk{Name: fmt.Sprintf("%c%d", g.kind[0], count[g.kind]), SizeBytes: g.size, SolidState: g.kind == "ssd"})
		}
	}
	return disks
}

// line is a plan in one line.
func line(p api.PoolPlan) string {
	var b strings.Builder
	for _, v := range p.Vdevs {
		fmt.Fprintf(&b, "%s of %d, ", v.Type, len(v.Disks))
	}
	for _, v := range p.Log {
		fmt.Fprintf(&b, "log %s, ", strings.Join(v.Disks, "+"))
	}
	for _, part := range []struct {
		n    int
		what string
	}{{len(p.Cache), "cache"}, {len(p.Spares), "spare"}, {len(p.Skipped), "idle"}} {
		if part.n > 0 {
			fmt.Fprintf(&b, "%d %s, ", part.n, part.what)
		}
	}
	fmt.Fprintf(&b, "%s, survives %d, reads %dx, writes %dx", size(p.CapacityBytes), p.Survives, p.ReadIOPS, p.WriteIOPS)
	return b.String()
}

// TestLayoutCases is what a plan is for the numbers and kinds of disks that
// servers have: who carries the data, how many failures are survived, and that
// no disk is idle.
func TestLayoutCases(t *testing.T) {
	tests := []struct {
		name  string
		disks []api.Disk
		opt   Options
		want  string
	}{
		// The kind that gives the larger pool carries the data.
		{"4 HDD of 8 TB and 6 SSD of 400 GB", shelf(group{4, "hdd", 8 * tb}, group{6, "ssd", 400 * gb}), Options{},
			"raidz1 of 4, log s1+s2, 4 cache, 24.0 TB, survives 1, reads 1x, writes 1x"},
		{"2 HDD of 4 TB and 4 SSD of 100 GB", shelf(group{2, "hdd", 4 * tb}, group{4, "ssd", 100 * gb}), Options{},
			"mirror of 2, log s1+s2, 2 cache, 4.0 TB, survives 1, reads 2x, writes 1x"},
		{"1 HDD of 8 TB and 2 SSD of 240 GB", shelf(group{1, "hdd", 8 * tb}, group{2, "ssd", 240 * gb}), Options{},
			"disk of 1, log s1+s2, 8.0 TB, survives 0, reads 1x, writes 1x"},
		{"2 HDD of 600 GB and 8 SSD of 4 TB", shelf(group{2, "hdd", 600 * gb}, group{8, "ssd", 4 * tb}), Options{},
			"raidz2 of 8, 2 idle, 24.0 TB, survives 2, reads 1x, writes 1x"},
		{"as much on both kinds", shelf(group{2, "hdd", tb}, group{2, "ssd", tb}), Options{},
			"mirror of 2, log s1+s2, 1.0 TB, survives 1, reads 2x, writes 1x"},
		{"4 HDD and 6 SSD, data on SSD", shelf(group{4, "hdd", 8 * tb}, group{6, "ssd", 400 * gb}), Options{DataOn: "ssd"},
			"raidz2 of 6, 4 idle, 1.6 TB, survives 2, reads 1x, writes 1x"},
		{"1 HDD and 2 SSD, data on SSD", shelf(group{1, "hdd", 8 * tb}, group{2, "ssd", 240 * gb}), Options{DataOn: "ssd"},
			"mirror of 2, 1 idle, 240.0 GB, survives 1, reads 2x, writes 1x"},
		{"4 SSD and 2 HDD, data on HDD", shelf(group{2, "hdd", 600 * gb}, group{4, "ssd", 4 * tb}), Options{DataOn: "hdd"},
			"mirror of 2, log s1+s2, 2 cache, 600.0 GB, survives 1, reads 2x, writes 1x"},
		{"4 HDD and 6 SSD, no cache", shelf(group{4, "hdd", 8 * tb}, group{6, "ssd", 400 * gb}), Options{NoCache: true},
			"raidz1 of 4, log s1+s2, 4 idle, 24.0 TB, survives 1, reads 1x, writes 1x"},
		{"2 HDD and 4 SSD, raidz2", shelf(group{2, "hdd", 8 * tb}, group{4, "ssd", tb}), Options{Layout: "raidz2"},
			"raidz2 of 4, 2 idle, 2.0 TB, survives 2, reads 1x, writes 1x"},

		// Redundancy is weighed by number, kind and size; no disk is idle.
		{"3 HDD", shelf(group{3, "hdd", 4 * tb}), Options{}, "raidz1 of 3, 8.0 TB, survives 1, reads 1x, writes 1x"},
		{"3 HDD, 0 spares", shelf(group{3, "hdd", 4 * tb}), Options{Spares: intp(0)}, "raidz1 of 3, 8.0 TB, survives 1, reads 1x, writes 1x"},
		{"3 HDD, 1 spare", shelf(group{3, "hdd", 4 * tb}), Options{Spares: intp(1)}, "mirror of 2, 1 spare, 4.0 TB, survives 1, reads 2x, writes 1x"},
		{"4 HDD", shelf(group{4, "hdd", 4 * tb}), Options{}, "raidz1 of 4, 12.0 TB, survives 1, reads 1x, writes 1x"},
		{"5 HDD, 0 spares", shelf(group{5, "hdd", tb}), Options{Spares: intp(0)}, "raidz2 of 5, 3.0 TB, survives 2, reads 1x, writes 1x"},
		{"5 HDD", shelf(group{5, "hdd", tb}), Options{}, "raidz2 of 5, 3.0 TB, survives 2, reads 1x, writes 1x"},
		{"6 SSD", shelf(group{6, "ssd", tb}), Options{}, "raidz2 of 6, 4.0 TB, survives 2, reads 1x, writes 1x"},
		{"7 HDD, 0 spares", shelf(group{7, "hdd", tb}), Options{Spares: intp(0)}, "raidz2 of 7, 5.0 TB, survives 2, reads 1x, writes 1x"},
		{"7 HDD", shelf(group{7, "hdd", tb}), Options{}, "raidz2 of 7, 5.0 TB, survives 2, reads 1x, writes 1x"},
		{"8 HDD of 1 TB", shelf(group{8, "hdd", tb}), Options{}, "mirror of 2, mirror of 2, mirror of 2, 2 spare, 3.0 TB, survives 1, reads 6x, writes 3x"},
		{"8 HDD of 1 TB, 0 spares", shelf(group{8, "hdd", tb}), Options{Spares: intp(0)},
			"mirror of 2, mirror of 2, mirror of 2, mirror of 2, 4.0 TB, survives 1, reads 8x, writes 4x"},
		{"8 HDD of 4 TB", shelf(group{8, "hdd", 4 * tb}), Options{}, "raidz2 of 8, 24.0 TB, survives 2, reads 1x, writes 1x"},
		{"8 SSD", shelf(group{8, "ssd", tb}), Options{}, "raidz2 of 8, 6.0 TB, survives 2, reads 1x, writes 1x"},
		{"9 SSD, 0 spares", shelf(group{9, "ssd", tb}), Options{Spares: intp(0)}, "raidz2 of 9, 7.0 TB, survives 2, reads 1x, writes 1x"},
		{"9 HDD of 1 TB, 0 spares", shelf(group{9, "hdd", tb}), Options{Spares: intp(0)}, "raidz2 of 9, 7.0 TB, survives 2, reads 1x, writes 1x"},
		{"9 HDD of 1 TB", shelf(group{9, "hdd", tb}), Options{}, "mirror of 2, mirror of 2, mirror of 2, mirror of 2, 1 spare, 4.0 TB, survives 1, reads 8x, writes 4x"},
		{"11 SSD, 0 spares", shelf(group{11, "ssd", tb}), Options{Spares: intp(0)}, "raidz2 of 11, 9.0 TB, survives 2, reads 1x, writes 1x"},
		{"12 HDD of 1 TB, 1 spare", shelf(group{12, "hdd", tb}), Options{Spares: intp(1)}, "raidz2 of 11, 1 spare, 9.0 TB, survives 2, reads 1x, writes 1x"},
		{"12 HDD of 16 TB", shelf(group{12, "hdd", 16 * tb}), Options{}, "raidz2 of 11, 1 spare, 144.0 TB, survives 2, reads 1x, writes 1x"},
		{"12 HDD of 16 TB, 0 spares", shelf(group{12, "hdd", 16 * tb}), Options{Spares: intp(0)}, "raidz2 of 12, 160.0 TB, survives 2, reads 1x, writes 1x"},
		{"12 HDD of 16 TB, mirrors in one word", shelf(group{12, "hdd", 16 * tb}), Options{Layout: "mirror", Spares: intp(0)},
			"mirror of 2, mirror of 2, mirror of 2, mirror of 2, mirror of 2, mirror of 2, 96.0 TB, survives 1, reads 12x, writes 6x"},
		{"13 HDD of 16 TB, 0 spares", shelf(group{13, "hdd", 16 * tb}), Options{Spares: intp(0)}, "raidz3 of 13, 160.0 TB, survives 3, reads 1x, writes 1x"},
		{"15 HDD of 16 TB, 0 spares", shelf(group{15, "hdd", 16 * tb}), Options{Spares: intp(0)},
			"raidz2 of 5, raidz2 of 5, raidz2 of 5, 144.0 TB, survives 2, reads 3x, writes 3x"},
		{"16 SSD", shelf(group{16, "ssd", tb}), Options{}, "raidz2 of 7, raidz2 of 7, 2 spare, 10.0 TB, survives 2, reads 2x, writes 2x"},
		{"24 HDD of 16 TB", shelf(group{24, "hdd", 16 * tb}), Options{}, "raidz2 of 11, raidz2 of 11, 2 spare, 288.0 TB, survives 2, reads 2x, writes 2x"},
		{"6 HDD, three-way mirrors", shelf(group{6, "hdd", tb}), Options{Layout: "mirror", Width: 3}, "mirror of 3, mirror of 3, 2.0 TB, survives 2, reads 6x, writes 2x"},
		{"6 HDD, width 3", shelf(group{6, "hdd", tb}), Options{Width: 3}, "mirror of 3, mirror of 3, 2.0 TB, survives 2, reads 6x, writes 2x"},
		{"10 HDD, raidz2 of width 5", shelf(group{10, "hdd", tb}), Options{Layout: "raidz2", Width: 5}, "raidz2 of 5, raidz2 of 5, 6.0 TB, survives 2, reads 2x, writes 2x"},

		// Sizes are not mixed within a vdev, and the larger pool wins.
		{"4 of 4 TB and 2 of 8 TB", shelf(group{4, "hdd", 4 * tb}, group{2, "hdd", 8 * tb}), Options{},
			"mirror of 2, mirror of 2, mirror of 2, 16.0 TB, survives 1, reads 6x, writes 3x"},
		{"4 of 4 TB and 4 of 8 TB", shelf(group{4, "hdd", 4 * tb}, group{4, "hdd", 8 * tb}), Options{},
			"raidz1 of 4, raidz1 of 4, 36.0 TB, survives 1, reads 2x, writes 2x"},
		{"11 of 16 TB and 2 of 480 GB", shelf(group{11, "hdd", 16 * tb}, group{2, "hdd", 480 * gb}), Options{},
			"raidz2 of 11, 2 idle, 144.0 TB, survives 2, reads 1x, writes 1x"},
		{"4 of 8 TB and 1 of 100 GB", shelf(group{4, "hdd", 8 * tb}, group{1, "hdd", 100 * gb}), Options{},
			"raidz1 of 4, 1 idle, 24.0 TB, survives 1, reads 1x, writes 1x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Layout(tt.disks, tt.opt)
			if err != nil {
				t.Fatal(err)
			}
			if got := line(p); got != tt.want {
				t.Errorf("\ngot  %s\nwant %s\n%s", got, tt.want, strings.Join(p.Why, "\n"))
			}
			if first := "this pool survives no failure"; (p.Survives == 0) != strings.HasPrefix(p.Why[0], first) {
				t.Errorf("survives %d, and the first line says %q", p.Survives, p.Why[0])
			}
			if err := checkPlan(tt.disks, p); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPlanObeysSpec: whatever an operator can say of a plan reaches the agent by
// the property of the same name, and changes the plan.
func TestPlanObeysSpec(t *testing.T) {
	disks := shelf(group{6, "hdd", 8 * tb}, group{6, "ssd", 400 * gb})
	disks[0].Content = "an ext4 file system"
	disks[1].WWN, disks[2].WWN = "naa.5000c500a1b20001", "naa.5000c500a1b20001"
	base := Options{Wipe: []string{"h1"}, Distinct: []string{"h2", "h3"}}
	settings := map[string]any{
		"Layout": "mirror", "Width": 3, "Spares": intp(2), "DataOn": "ssd", "NoCache": true, "Exclude": []string{"h4"},
		"Wipe": []string(nil), "Distinct": []string(nil),
	}
	zero, err := Layout(disks, base)
	if err != nil {
		t.Fatal(err)
	}
	for i := range reflect.TypeFor[Options]().NumField() {
		name := reflect.TypeFor[Options]().Field(i).Name
		o, spec := base, api.SetupSpec{Wipe: base.Wipe, Distinct: base.Distinct}
		in := reflect.ValueOf(&spec).Elem().FieldByName(name)
		if settings[name] == nil || !in.IsValid() {
			t.Errorf("option %s: no property of the setup or no value in this test", name)
			continue
		}
		v := reflect.ValueOf(settings[name])
		reflect.ValueOf(&o).Elem().Field(i).Set(v)
		in.Set(v)
		want, err1 := Layout(disks, o)
		got, err2 := Plan(spec, disks)
		if got.Digest != want.Digest || (err1 == nil) != (err2 == nil) || got.Digest == zero.Digest {
			t.Errorf("option %s: planned %s %v, want %s %v", name, line(got), err2, line(want), err1)
		}
	}
}

// TestAlternatives: beside a plan stand the two next best, with what asks for
// them, and asking gives what was shown.
func TestAlternatives(t *testing.T) {
	tests := []struct {
		name  string
		disks []api.Disk
		opt   Options
		want  []string
	}{
		{"12 HDD of 16 TB", shelf(group{12, "hdd", 16 * tb}), Options{}, []string{
			"--layout mirror: 5 of 2, 2 spares, 80.0 TB, survives 1, reads 10x, writes 5x",
			"--layout raidz3: 1 of 11, 1 spare, 128.0 TB, survives 3, reads 1x, writes 1x"}},
		{"3 HDD", shelf(group{3, "hdd", tb}), Options{}, []string{
			"--layout mirror: 1 of 2, 1 spare, 1.0 TB, survives 1, reads 2x, writes 1x",
			"--layout mirror --width 3: 1 of 3, 0 spares, 1.0 TB, survives 2, reads 3x, writes 1x"}},
		{"4 SSD", shelf(group{4, "ssd", tb}), Options{}, []string{
			"--layout mirror: 2 of 2, 0 spares, 2.0 TB, survives 1, reads 4x, writes 2x",
			"--layout raidz2: 1 of 4, 0 spares, 2.0 TB, survives 2, reads 1x, writes 1x"}},
		{"5 HDD", shelf(group{5, "hdd", tb}), Options{}, []string{
			"--layout mirror: 2 of 2, 1 spare, 2.0 TB, survives 1, reads 4x, writes 2x",
			"--layout raidz1: 1 of 5, 0 spares, 4.0 TB, survives 1, reads 1x, writes 1x"}},
		{"8 HDD of 1 TB", shelf(group{8, "hdd", tb}), Options{}, []string{
			"--layout raidz2: 1 of 8, 0 spares, 6.0 TB, survives 2, reads 1x, writes 1x",
			"--layout raidz3: 1 of 8, 0 spares, 5.0 TB, survives 3, reads 1x, writes 1x"}},
		{"1 HDD and 2 SSD", shelf(group{1, "hdd", 8 * tb}, group{2, "ssd", 240 * gb}), Options{}, []string{
			"--data-on ssd: 1 of 2, 0 spares, 240.0 GB, survives 1, reads 2x, writes 1x"}},
		{"2 HDD: nothing is better in anything", shelf(group{2, "hdd", tb}), Options{}, nil},
		{"1 HDD", shelf(group{1, "hdd", tb}), Options{}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Layout(tt.disks, tt.opt)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, a := range p.Alternatives {
				got = append(got, fmt.Sprintf("%s: %d of %d, %s, %s, survives %d, reads %dx, writes %dx", a.Ask, a.Vdevs, a.Width,
					api.Plural(a.Spares, "spare"), size(a.CapacityBytes), a.Survives, a.ReadIOPS, a.WriteIOPS))
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

// TestNoDiskIdle: an automatic plan of like disks leaves none idle that another
// layout would use, with as many spares; and whatever the disks are, none that
// another layout would use for a larger pool.
func TestNoDiskIdle(t *testing.T) {
	all := []string{"single", "mirror", "raidz1", "raidz2", "raidz3"}
	for _, kind := range []string{"hdd", "ssd"} {
		for _, each := range []int64{tb, 16 * tb} {
			for n := 1; n <= 64; n++ {
				disks := shelf(group{n, kind, each})
				for s := -1; s < 4; s++ {
					o := Options{}
					if s >= 0 {
						o.Spares = &s
					}
					p, _, err := layout(disks, o)
					if err != nil {
						if !errors.Is(err, ErrImpossible) || n-s >= 2 || s <= 0 {
							t.Fatalf("%d %s, spares %d: %v", n, kind, s, err)
						}
						continue
					}
					if s < 0 && len(p.Skipped) > 0 {
						t.Errorf("%d %s of %s: %d idle", n, kind, size(each), len(p.Skipped))
					}
					for _, l := range all {
						with := o
						with.Layout = l
						q, _, err := layout(disks, with)
						if err == nil && len(q.Skipped) < len(p.Skipped) {
							t.Errorf("%d %s of %s, %d spares: %s leaves %d idle, %s %d", n, kind, size(each), s, p.Layout, len(p.Skipped), l, len(q.Skipped))
						}
					}
				}
			}
		}
	}
	r := rand.New(rand.NewPCG(5, 6))
	sizes := []int64{100 * gb, 400 * gb, tb, 4 * tb, 8 * tb, 16 * tb}
	for range 2000 {
		var groups []group
		for range 1 + r.IntN(3) {
			groups = append(groups, group{1 + r.IntN(8), "hdd", sizes[r.IntN(len(sizes))]})
		}
		disks := shelf(groups...)
		p, _, err := layout(disks, Options{})
		if err != nil {
			t.Fatal(err)
		}
		m, _, err := layout(disks, Options{Layout: "mirror"})
		if err == nil && len(m.Skipped) < len(p.Skipped) && m.CapacityBytes > p.CapacityBytes {
			t.Errorf("%v: %s\nmirrors: %s", groups, line(p), line(m))
		}
	}
}
