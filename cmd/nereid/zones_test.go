package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"nereid/api"
	"nereid/headnode"
)

// zones are the instances of a machine: each is at once what is wanted of it.
type zones struct {
	follow api.Follow
	past   api.Follow // of the set of snapshots
	all    map[string]api.InstanceStatus
	snaps  map[string][]api.SnapshotStatus // by instance
	lost   map[string][]string             // ids of snapshots that are gone, likewise
	gone   []string
	dirty  bool
	full   bool
	n      int
	seen   string // what the head node took in last
}

func newZones(server string) *zones {
	return &zones{follow: api.Follow{Set: api.InstanceSet(server)}, past: api.Follow{Set: api.SnapshotSet(server)}, all: map[string]api.InstanceStatus{},
		snaps: map[string][]api.SnapshotStatus{}, lost: map[string][]string{}, full: true, dirty: true}
}

// takeSnapshots does what a delta says of snapshots.
func (z *zones) takeSnapshots(d api.Delta) error {
	z.past = z.past.Take(d)
	z.past.Kept = z.past.Since
	for _, v := range d.Put {
		var s api.SnapshotSpec
		if err := json.Unmarshal(v, &s); err != nil {
			return fmt.Errorf("spec of a snapshot: %w", err)
		}
		if !s.Made {
			z.snaps[s.Instance] = append(z.snaps[s.Instance], api.SnapshotStatus{ID: s.ID, Name: s.Name, State: api.SnapshotCreated, Consistency: api.SnapshotAtomic, Created: time.Now()})
			z.dirty = true
		}
	}
	for _, key := range d.Gone {
		instance, id, _ := strings.Cut(key, "/")
		z.lose(instance, id)
	}
	return nil
}

// lose destroys a snapshot.
func (z *zones) lose(instance, id string) {
	z.snaps[instance] = slices.DeleteFunc(z.snaps[instance], func(s api.SnapshotStatus) bool { return s.ID == id })
	z.lost[instance], z.dirty = append(z.lost[instance], id), true
}

// take does what a delta says.
func (z *zones) take(d api.Delta) error {
	if d.Set == z.past.Set {
		return z.takeSnapshots(d)
	}
	z.follow = z.follow.Take(d)
	z.follow.Kept = z.follow.Since
	for _, v := range d.Put {
		var s api.InstanceSpec
		if err := json.Unmarshal(v, &s); err != nil {
			return fmt.Errorf("spec of an instance: %w", err)
		}
		st := api.InstanceStatus{UUID: s.UUID, State: s.Wanted, Made: true, Started: z.all[s.UUID].Started}
		if s.Wanted == api.InstanceRunning && (st.Started.IsZero() || s.Reboot != "") {
			st.Started = time.Now()
		}
		if !s.Made {
			st.Steps = []api.InstanceStep{{Name: "clone", Start: time.Now(), Seconds: 0.25}, {Name: "start unit", Start: time.Now(), Seconds: 0.5}}
		}
		for _, id := range []string{s.Reboot, s.Force} {
			if id != "" {
				st.Done = append(st.Done, id)
			}
		}
		if s.Signal != nil {
			st.Done = append(st.Done, s.Signal.ID)
		}
		if s.Rollback != nil {
			st.Done = append(st.Done, s.Rollback.ID)
			for _, id := range s.Rollback.Newer {
				z.lose(s.UUID, id)
			}
		}
		z.all[s.UUID], z.dirty = st, true
	}
	for _, uuid := range d.Gone {
		delete(z.all, uuid)
		z.gone, z.dirty = append(z.gone, uuid), true
	}
	return nil
}

// report is what the head node is to be told; nil: nothing.
func (z *zones) report() *api.InstanceReport {
	if !z.dirty {
		return nil
	}
	if !z.full {
		z.n++
	}
	r := &api.InstanceReport{Since: z.seen, Now: fmt.Sprint("r", z.n), Full: z.full, Gone: slices.Clone(z.gone)}
	for _, st := range z.all {
		r.Put = append(r.Put, st)
	}
	for uuid, gone := range z.lost {
		r.Snapshots = append(r.Snapshots, api.SnapshotReport{Instance: uuid, Gone: slices.Clone(gone)})
	}
	for uuid, snaps := range z.snaps {
		r.Snapshots = append(r.Snapshots, api.SnapshotReport{Instance: uuid, Put: slices.Clone(snaps)})
	}
	return r
}

// heard takes in the name of the report that the head node took in last.
func (z *zones) heard(seen string) {
	if z.dirty && seen == fmt.Sprint("r", z.n) {
		z.seen, z.dirty, z.full, z.gone, z.lost = seen, false, false, nil, map[string][]string{}
	}
}

// macCommand is "mac INSTANCE INTERFACE" in the archives: MAC is the NIC's.
func macCommand(ts *testscript.TestScript, _ bool, args []string) {
	for _, n := range scriptInstance(ts, args[0]).NICs {
		if n.Interface == args[1] {
			ts.Setenv("MAC", n.MAC)
		}
	}
}

// onCommand is "on INSTANCE" in the archives: ON is its server's hostname.
func onCommand(ts *testscript.TestScript, _ bool, args []string) {
	c := scriptClient(ts)
	defer c.Close()
	s, err := c.Server(context.Background(), scriptInstance(ts, args[0]).Server)
	ts.Check(err)
	ts.Setenv("ON", s.Hostname)
}

// uuidCommand is "uuid NAME" in the archives: PACKAGE is the UUID of a package.
func uuidCommand(ts *testscript.TestScript, _ bool, args []string) {
	c := scriptClient(ts)
	defer c.Close()
	p, err := c.Packages().Get(context.Background(), args[0])
	ts.Check(err)
	ts.Setenv("PACKAGE", p.UUID)
}

func scriptClient(ts *testscript.TestScript) *api.Client {
	return api.NewClient(filepath.Join(ts.Value("real").(*realHeadnode).dir, headnode.SocketFile))
}

func scriptInstance(ts *testscript.TestScript, name string) api.Instance {
	c := scriptClient(ts)
	defer c.Close()
	i, err := c.Instances().Get(context.Background(), name)
	ts.Check(err)
	return i
}

// TestExamplesAreRun: each example that the help of images, packages and instances has is
// a line of an archive that is run. Sessions need a zone: integration/instance has them.
func TestExamplesAreRun(t *testing.T) {
	var lines []string
	archives, err := filepath.Glob("testdata/headnode/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range archives {
		b, err := os.ReadFile(a)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.SplitSeq(string(b), "\n") {
			lines = append(lines, strings.TrimPrefix(strings.TrimPrefix(line, "! "), "exec "))
		}
	}
	elsewhere := []string{
		"instance exec", "instance shell", "instance console", "instance logs", "instance push", "instance pull", // integration/instance, integration/lab's zones
		"instance screenshot", "instance vnc", "instance nmi", // integration/instance
		"image build", "image import oci:", "image import https://", "image export", "image import ./", "image import oci-layout:", // with other names of files
	}
	root := newApp(strings.NewReader(""), io.Discard, io.Discard).rootCommand()
	for _, noun := range []string{"image", "package", "instance"} {
		c, _, err := root.Find([]string{noun})
		if err != nil {
			t.Fatal(err)
		}
		eachCommand(c, func(c *cobra.Command) {
			for line := range strings.SplitSeq(c.Example, "\n") {
				line, _, _ = strings.Cut(line, " #")
				line, _, _ = strings.Cut(line, " | ")
				line = strings.ReplaceAll(strings.ReplaceAll(line, "02:4e:52:00:00:01", "$MAC"), "disable 930896af-bf8c-48d4-885c-6573a94b1853", "disable $PACKAGE")
				line = strings.TrimSpace(line)
				if !slices.Contains(lines, line) && !slices.ContainsFunc(elsewhere, func(p string) bool { return strings.HasPrefix(line, "nereid "+p) }) {
					t.Errorf("example of %s is run by no archive: %s", c.CommandPath(), line)
				}
			}
		})
	}
}
