//go:build vm

package instance

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/integration/lab"
	"nereid/integration/lab/labtest"
)

const alice = "a11ce000-0000-4000-8000-00000000000a"

// operator operates the rack with the operator's program.
type operator struct{ *labtest.Rack }

// of is the operator in a test of a test.
func (o operator) of(t *testing.T) operator {
	r := *o.Rack
	r.T = t
	return operator{&r}
}

// command is one of the operator's program.
func (o operator) command(ctx context.Context, args ...string) *exec.Cmd {
	return o.Exec(ctx, filepath.Join(o.Bin, "nereid"), append([]string{"--server", o.Socket()}, args...)...)
}

func (o operator) nereid(args ...string) string {
	o.T.Helper()
	out, err := o.command(o.T.Context(), args...).CombinedOutput()
	if err != nil {
		o.T.Fatalf("nereid %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (o operator) read(into any, args ...string) {
	o.T.Helper()
	out, err := o.command(o.T.Context(), append([]string{"-o", "json"}, args...)...).Output() // what is told of progress is beside it
	if err == nil {
		err = json.Unmarshal(out, into)
	}
	if err != nil {
		o.T.Fatalf("nereid %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (o operator) instance(name string) api.Instance {
	o.T.Helper()
	var i api.Instance
	o.read(&i, "instance", "get", name)
	return i
}

// zone is an instance and the server that it is on.
type zone struct {
	api.Instance
	on *lab.Machine
}

// inside runs a line of shell in a zone.
func (o operator) inside(z zone, line string) string {
	o.T.Helper()
	return o.nereid("instance", "exec", z.Name, "--", "/bin/sh", "-c", line)
}

// prepare imports the tiny image, whose UUID it gives, and makes a fabric network, web.
func (o operator) prepare() string {
	o.T.Helper()
	var img api.Image
	o.read(&img, "image", "import", filepath.Join(labtest.Images(o.T), "tiny"))
	o.Undo("image", "delete", img.UUID, "--yes")
	o.network()
	return img.UUID
}

// network makes a fabric network, web.
func (o operator) network() {
	o.T.Helper()
	o.nereid("fabric", "vlan", "create", alice, "2", "--name", "web")
	o.Undo("fabric", "vlan", "delete", alice, "2", "--yes")
	o.nereid("fabric", "network", "create", alice, "2", "web", "--subnet", "192.168.7.0/24", "--gateway", "192.168.7.1", "--internet-nat")
	o.Undo("fabric", "network", "delete", alice, "2", "web", "--yes")
}

// create makes zones on servers and waits until they run: their addresses are 192.168.7.10
// and what follows, in the order of their names.
func (o operator) create(image, pkg string, on map[string]*lab.Machine, more ...string) map[string]zone {
	o.T.Helper()
	zones := map[string]zone{}
	for i, name := range slices.Sorted(maps.Keys(on)) {
		o.nereid(append([]string{"instance", "create", name, "--owner", alice, "--image", image, "--package", pkg,
			"--network", fmt.Sprintf("web=192.168.7.1%d", i), "--on", on[name].Spec.Name, "--wait"}, more...)...)
		o.Undo("instance", "delete", name, "--yes", "--wait")
		zones[name] = zone{o.instance(name), on[name]}
	}
	return zones
}

// TestVMZones takes an image to two running zones on two servers, which reach each other
// on their fabric addresses and what is outside by NAT, also after the agent was killed,
// after a reboot from inside, with NICs more and less, a rollback and a stop; deleted zones
// leave nothing.
func TestVMZones(t *testing.T) {
	o := operator{labtest.Standard(t)}
	img := o.prepare()
	o.nereid("package", "create", "small", "--memory-mib", "128", "--vcpus", "1", "--quota-mib", "512")
	o.Undo("package", "disable", "small")
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nmdata-put started yes\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	zones := o.create(img, "small", map[string]*lab.Machine{"z1": o.Machines()[0], "z2": o.Machines()[1]}, "--metadata", "n=3", "--user-script", script)
	reach := func(t *testing.T) {
		t.Helper()
		// A NIC that was made anew is in its bridge once the agent has seen it.
		const until = "timeout 60 sh -c \"until ping -c 1 -W 1 %s; do :; done\""
		o.inside(zones["z1"], fmt.Sprintf(until, "192.168.7.11"))
		o.inside(zones["z2"], fmt.Sprintf(until, "192.168.7.10"))
	}
	reach(t)
	t.Run("hostname", func(t *testing.T) {
		if got := strings.TrimSpace(o.inside(zones["z1"], "hostname")); got != "z1" {
			t.Errorf("the host name inside is %q: want z1", got)
		}
	})
	t.Run("ZFS's cache", func(t *testing.T) { // leaves 128 MiB to the zone, and 512 to the platform
		on := zones["z1"].on
		var kib int64
		if _, err := fmt.Sscan(strings.TrimPrefix(o.Shell(on, "grep MemTotal: /proc/meminfo"), "MemTotal:"), &kib); err != nil {
			t.Fatal(err)
		}
		o.until(on, fmt.Sprintf(`grep -Eq "^c_max .* %d$" /proc/spl/kstat/zfs/arcstats`, min(kib<<10-640<<20, kib<<10/4*3)))
	})
	// What is written from inside is the head node's, whatever the agent does meanwhile.
	written := func(t *testing.T, name, key, value string) {
		t.Helper()
		for n := 0; o.instance(name).Metadata[key] != value; {
			if n++; n > 400 {
				t.Fatalf("the head node has not heard of %s; %s", key, o.nereid("instance", "logs", name))
			}
			o.Shell(zones[name].on, "sleep 0.3")
		}
	}
	t.Run("metadata", func(t *testing.T) {
		written(t, "z1", "started", "yes") // by its user-script
		m := zones["z1"].on
		o.Shell(m, "systemctl stop nereid-agent")
		o.Shell(m, "systemctl kill -s KILL nereid-metadata")
		got := o.Shell(m, "nsenter -t "+leader(o, zones["z1"])+` -a /bin/sh -c 'PATH=/bin:/sbin:/usr/bin:/usr/sbin
			stty -F /dev/ttyS1 raw -echo; exec 3<>/dev/ttyS1; printf "GET n\n" >&3; read a <&3; read b <&3
			mdata-put late yes; echo "$a $b $(mdata-get n) $(mdata-get late) $(mdata-get sdc:alias) $(cat /var/lib/cloud/seed/nocloud/meta-data | grep -c z1)"'`)
		if got = strings.TrimSpace(got); got != "SUCCESS 3 3 yes z1 1" {
			t.Errorf("with the agent away a zone reads %q", got)
		}
		o.Shell(m, "systemctl start nereid-agent")
		written(t, "z1", "late", "yes")
	})
	t.Run("agent killed", func(t *testing.T) {
		m := zones["z1"].on
		before := leader(o, zones["z1"])
		o.Shell(m, "systemctl kill -s KILL nereid-agent")
		killed := time.Now()
		o.Wait(m, "running with its new agent", func(s api.Server) bool {
			return s.State == api.StateRunning && s.LastSeen != nil && s.LastSeen.After(killed)
		})
		if after := leader(o, zones["z1"]); after != before {
			t.Errorf("the zone's first process was %s and is %s: an agent that starts restarted it", before, after)
		}
		reach(t)
	})
	t.Run("reboot inside", func(t *testing.T) {
		before := leader(o, zones["z2"])
		o.Shell(zones["z2"].on, "kill -TERM "+before) // busybox init takes it for a reboot
		o.until(zones["z2"].on, fmt.Sprintf(`l=$(machinectl show --value -p Leader %s) && [ "$l" != %s ]`, zones["z2"].UUID, before))
		reach(t)
	})
	t.Run("NICs", func(t *testing.T) { o.liveNICs(t, zones["z1"], zones["z2"], reach) })
	t.Run("NAT", func(t *testing.T) {
		address := o.of(t).Outside()
		for _, z := range zones {
			o.of(t).Answers(z.on, "nsenter -n -t "+leader(o, z), address)
			o.inside(z, "ping -c 3 -w 60 "+address)
		}
	})
	t.Run("snapshot and rollback", func(t *testing.T) { o.of(t).rollsBack(zones["z1"]); reach(t) })
	t.Run("stop and start", func(t *testing.T) {
		o.nereid("instance", "stop", "z1", "--wait")
		if got := o.instance("z1"); got.State != api.InstanceStopped {
			t.Errorf("z1 is %s, %s: want stopped", got.State, got.Reason)
		}
		o.nereid("instance", "start", "z1", "--wait")
		reach(t)
	})
}

// leader is the process number of a zone's first process, on its server.
func leader(o operator, z zone) string {
	o.T.Helper()
	return strings.TrimSpace(o.Shell(z.on, "machinectl show --value -p Leader "+z.UUID))
}

// until waits in a server until a line of shell ends well.
func (o operator) until(m *lab.Machine, line string) {
	o.T.Helper()
	const limit = 3 * time.Minute
	ctx, cancel := context.WithTimeout(o.T.Context(), limit+time.Minute)
	defer cancel()
	if out, err := m.Shell(ctx, fmt.Sprintf("timeout %d sh -c 'until { %s; } 2>/dev/null; do sleep 0.2; done'", int(limit.Seconds()), line)); err != nil {
		o.T.Fatalf("%v: %s", err, out)
	}
}
