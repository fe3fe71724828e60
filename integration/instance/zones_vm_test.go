//go:build vm

package instance

import (
	"encoding/json"
	"fmt"
	"path/filepath"
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

func (o operator) nereid(args ...string) string {
	o.T.Helper()
	cmd := o.Exec(o.T.Context(), filepath.Join(o.Bin, "nereid"), append([]string{"--server", o.Socket()}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		o.T.Fatalf("nereid %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (o operator) read(into any, args ...string) {
	o.T.Helper()
	cmd := o.Exec(o.T.Context(), filepath.Join(o.Bin, "nereid"), append([]string{"--server", o.Socket(), "-o", "json"}, args...)...)
	out, err := cmd.Output() // what is told of progress is beside it
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

// TestVMZones takes an image to two running zones on two servers, which reach each other
// on their fabric addresses, also after the agent was killed, after a reboot from inside
// and a stop; deleted zones leave nothing.
func TestVMZones(t *testing.T) {
	r := labtest.Standard(t)
	o := operator{r}
	var img api.Image
	o.read(&img, "image", "import", filepath.Join(labtest.Images(t), "tiny"))
	o.Undo("image", "delete", img.UUID, "--yes")
	o.nereid("package", "create", "small", "--memory-mib", "128", "--vcpus", "1", "--quota-mib", "512")
	o.Undo("package", "disable", "small")
	o.nereid("fabric", "vlan", "create", alice, "2", "--name", "web")
	o.Undo("fabric", "vlan", "delete", alice, "2", "--yes")
	o.nereid("fabric", "network", "create", alice, "2", "web", "--subnet", "192.168.7.0/24", "--gateway", "192.168.7.1")
	o.Undo("fabric", "network", "delete", alice, "2", "web", "--yes")

	zones := map[string]zone{}
	for i, m := range r.Machines() {
		name := fmt.Sprintf("z%d", i+1)
		o.nereid("instance", "create", name, "--owner", alice, "--image", img.UUID, "--package", "small",
			"--network", fmt.Sprintf("web=192.168.7.1%d", i), "--on", m.Spec.Name, "--wait")
		o.Undo("instance", "delete", name, "--yes", "--wait")
		zones[name] = zone{o.instance(name), m}
	}
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
		if _, err := fmt.Sscan(strings.TrimPrefix(r.Shell(on, "grep MemTotal: /proc/meminfo"), "MemTotal:"), &kib); err != nil {
			t.Fatal(err)
		}
		o.until(on, fmt.Sprintf(`grep -Eq "^c_max .* %d$" /proc/spl/kstat/zfs/arcstats`, min(kib<<10-640<<20, kib<<10/4*3)))
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
	o.Shell(m, fmt.Sprintf("timeout %d sh -c 'until { %s; } 2>/dev/null; do sleep 0.2; done'", int((3*time.Minute).Seconds()), line))
}
