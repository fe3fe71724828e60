//go:build vm

package instance

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"nereid/api"
	"nereid/integration/lab/labtest"
)

// many is how many zones one server of 1.5 GiB starts at once, in a test.
const many = 40

// TestVMMany: 40 zones at once on one server run, each with users and an address of its
// own, and none mounted where the server sees it; all go again, and leave nothing.
func TestVMMany(t *testing.T) {
	o := operator{labtest.Standard(t)}
	img := o.prepare()
	o.nereid("package", "create", "least", "--memory-mib", "16", "--vcpus", "1", "--quota-mib", "64")
	o.Undo("package", "disable", "least")
	c, ctx := o.Client(), t.Context()
	before, err := c.InstanceSettings(ctx)
	if err != nil {
		t.Fatal(err)
	}
	dense := before
	before.Revision = ""
	dense.CPURatio = 64
	if _, err := c.SetInstanceSettings(ctx, dense); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := c.SetInstanceSettings(context.WithoutCancel(ctx), before); err != nil {
			t.Error(err)
		}
	})
	m := o.Machines()[1]
	gone := func() {
		var wg sync.WaitGroup
		slots := make(chan struct{}, 8)
		for n := range many {
			wg.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				name := fmt.Sprintf("m-%d", n+1)
				if i, err := c.Instances().Get(context.WithoutCancel(ctx), name); err == nil && i.State != api.InstanceDeleted {
					o.undo("instance", "delete", name, "--yes", "--wait")
				}
			})
		}
		wg.Wait()
	}
	t.Cleanup(gone)
	o.nereid("instance", "create", "m", "--count", strconv.Itoa(many), "--owner", alice, "--image", img, "--package", "least",
		"--network", "web", "--on", m.Spec.Name, "--wait")

	var all []api.Instance
	o.read(&all, "instance", "list", "--owner", alice, "--state", "running")
	if len(all) != many {
		t.Errorf("%d instances run: want %d", len(all), many)
	}
	addresses := map[string]bool{}
	for _, i := range all {
		addresses[i.NICs[0].Addresses[0].Address] = true
	}
	if len(addresses) != len(all) {
		t.Errorf("%d instances have %d addresses", len(all), len(addresses))
	}
	for what, line := range map[string]string{
		"ranges of users":               "for l in $(machinectl list --no-legend | awk '{print $1}'); do cat /proc/$(machinectl show --value -p Leader $l)/uid_map; done | sort -u | wc -l",
		"machines":                      "machinectl list --no-legend | wc -l",
		"ports in the network's bridge": "ls /sys/class/net | grep -c ^np",
	} {
		if got := o.Shell(m, line); got != strconv.Itoa(many) {
			t.Errorf("%s %s: want %d", got, what, many)
		}
	}
	// What starts a zone is charged to the zone, too.
	if got := o.Shell(m, "cat /sys/fs/cgroup/*.slice/nereid-zone-*.service/memory.events | awk '$1 == \"oom_kill\" {n += $2; u++} END {print u+0, n+0}'"); got != strconv.Itoa(many)+" 0" {
		t.Errorf("units, and processes in them that were killed for memory: %s; want %d 0", got, many)
	}
	t.Logf("most memory that a zone's unit of 16 MiB had: %s", o.Shell(m, "sort -n /sys/fs/cgroup/*.slice/nereid-zone-*.service/memory.peak | awk '{a[NR]=$1/1048576} END {printf \"%.1f MiB, median %.1f\", a[NR], a[int((NR+1)/2)]}'"))
	if n := o.Shell(m, "grep -c ^zones/ /proc/1/mounts || true"); strings.TrimSpace(n) != o.Shell(o.Machines()[0], "grep -c ^zones/ /proc/1/mounts || true") {
		t.Errorf("the server has %s mounts of its pool", n)
	}
	t.Logf("memory: %s", o.Shell(m, `awk '/MemTotal/{t=$2} /MemAvailable/{a=$2} END {printf "%d MiB of %d MiB used", (t-a)/1024, t/1024}' /proc/meminfo; echo; awk '/VmRSS/' /proc/$(systemctl show -p MainPID --value nereid-agent)/status`))
}

// undo runs the operator's program for what must come to pass at a test's end.
func (o operator) undo(args ...string) {
	out, err := o.command(context.WithoutCancel(o.T.Context()), args...).CombinedOutput()
	if err != nil {
		o.T.Errorf("nereid %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
