//go:build vm

package instance

import (
	"strings"

	"nereid/api"
)

// snapshot takes a snapshot of an instance, and gives it once it is there.
func (o operator) snapshot(instance, name string) api.Snapshot {
	o.T.Helper()
	o.nereid("instance", "snapshot", "create", instance, name, "--wait")
	var s api.Snapshot
	o.read(&s, "instance", "snapshot", "get", instance, name)
	return s
}

// snapshots are the names of an instance's.
func (o operator) snapshots(instance string) string {
	o.T.Helper()
	var all []api.Snapshot
	o.read(&all, "instance", "snapshot", "list", instance)
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	return strings.Join(names, " ")
}

// rollsBack breaks a zone that runs, and has it go back to a snapshot of before that: it
// runs again, with what it had, and the newer snapshot is gone. An agent that was killed
// knows the snapshots from the pool.
func (o operator) rollsBack(z zone) {
	o.T.Helper()
	o.inside(z, "echo good > /etc/state")
	if s := o.snapshot(z.Name, "good"); s.Consistency != api.SnapshotAtomic {
		o.T.Errorf("a snapshot of a zone that runs: %+v", s)
	}
	o.inside(z, "echo bad > /etc/state; rm -rf /etc/inittab /usr")
	o.snapshot(z.Name, "bad")
	if got := o.snapshots(z.Name); got != "good bad" {
		o.T.Errorf("there are %s", got)
	}
	o.Shell(z.on, "systemctl kill -s KILL nereid-agent")
	before := leader(o, z)
	o.nereid("instance", "snapshot", "rollback", z.Name, "good", "--yes", "--wait")
	if got := strings.TrimSpace(o.inside(z, "cat /etc/state; ls /usr | wc -l")); !strings.HasPrefix(got, "good") || strings.HasSuffix(got, "\n0") {
		o.T.Errorf("after the rollback the zone has %q", got)
	}
	if now := leader(o, z); now == before {
		o.T.Error("the zone was not started again")
	}
	if got := o.snapshots(z.Name); got != "good" {
		o.T.Errorf("after the rollback there are %s", got)
	}
	o.nereid("instance", "snapshot", "delete", z.Name, "good", "--yes", "--wait")
	if out := o.Shell(z.on, "zfs list -H -t snapshot -o name -r zones/"+z.UUID); strings.TrimSpace(out) != "" {
		o.T.Errorf("left are %s", out)
	}
}
