package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"nereid/api"
)

// planCard shows a pool as zpool status would, and the rules that made it so.
func (a *app) planCard(w io.Writer, s api.Server, pool string, p api.PoolPlan) error {
	c := a.card(w)
	c.width = cmp.Or(c.width, planWidth)
	disks := map[string]api.Disk{}
	for _, d := range s.Sysinfo.Disks {
		disks[d.Name] = d
	}
	risk := ""
	if p.Survives == 0 {
		risk = yellow.paint(", survives no failure", c.colour)
	}
	c.printf("Pool %s on %s: %s, %s usable%s\n", bold.paint(oneLine(pool), c.colour), oneLine(named(s)), p.Layout, size(p.CapacityBytes), risk)
	c.printf("%s; reads like %s, writes like %s\n\n", mayFail(p.Survives), api.Plural(p.ReadIOPS, "disk"), api.Plural(p.WriteIOPS, "disk"))
	disk := func(indent, name string) {
		d := disks[name]
		c.hang(fmt.Sprintf("%s%-*s %10s  ", indent, 20-len(indent), oneLine(name), size(d.SizeBytes)),
			oneLine(strings.TrimSuffix(diskKind(d)+", "+d.Model, ", ")), plain)
	}
	vdevs := func(vs []api.Vdev) {
		for _, v := range vs {
			if v.Type == "disk" || v.Type == "single" || v.Type == "" {
				for _, d := range v.Disks {
					disk("    ", d)
				}
				continue
			}
			c.printf("    %s\n", v.Type)
			for _, d := range v.Disks {
				disk("      ", d)
			}
		}
	}
	c.printf("  %s\n", oneLine(pool))
	vdevs(p.Vdevs)
	if len(p.Log) > 0 {
		c.printf("  log\n")
		vdevs(p.Log)
	}
	for _, part := range []struct {
		name  string
		disks []string
	}{{"cache", p.Cache}, {"spares", p.Spares}} {
		if len(part.disks) > 0 {
			c.printf("  %s\n", part.name)
		}
		for _, d := range part.disks {
			disk("    ", d)
		}
	}
	if len(p.Why) > 0 {
		c.section("Why")
		c.bullets(p.Why, plain)
	}
	if len(p.Skipped) > 0 {
		c.section("Left alone")
		for _, k := range p.Skipped {
			c.line(k.Disk, k.Reason)
		}
	}
	if len(p.Alternatives) > 0 {
		c.section("Next best")
		t := &table{header: []string{"LAYOUT", "CAPACITY", "MAY FAIL", "READS", "WRITES", "ASK WITH"}}
		for _, o := range p.Alternatives {
			t.add(text(optionLayout(o)), cell{text: size(o.CapacityBytes), right: true}, number("%d", o.Survives), number("%dx", o.ReadIOPS),
				number("%dx", o.WriteIOPS), text(o.Ask))
		}
		c.table(t)
		c.hang("  ", "MAY FAIL: disks, whichever they are. READS, WRITES: random IOPS as a multiple of one disk's.", dim)
	}
	return c.err
}

// planWidth is how wide a plan is printed where the terminal does not say.
const planWidth = 80

// optionLayout is "2 raidz2 of 11, 2 spares", or "5 mirrors of 2".
func optionLayout(o api.PoolOption) string {
	if o.Width == 1 {
		return "one disk"
	}
	vdevs := fmt.Sprintf("%d %s", o.Vdevs, o.Layout)
	if o.Layout == "mirror" {
		vdevs = api.Plural(o.Vdevs, "mirror")
	}
	s := fmt.Sprintf("%s of %d", vdevs, o.Width)
	if o.Spares > 0 {
		s += ", " + api.Plural(o.Spares, "spare")
	}
	return s
}

func mayFail(n int) string {
	switch n {
	case 0:
		return "No disk may fail"
	case 1:
		return "Any 1 disk may fail"
	}
	return "Any " + api.Plural(n, "disk") + " may fail at once"
}
