// Package labtest gives tests a rack with a head node that has a platform, and
// machines to power on.
package labtest

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/integration/lab"
)

// Rack is a lab.Rack whose operations fail the test.
type Rack struct {
	*lab.Rack
	T        *testing.T
	Bin      string // directory of the programs
	Platform string // directory of the platform, with the lab's shell
	Stamp    string
}

// env reads a directory that the Makefile hands over; without it the tier cannot
// run, and says so.
func env(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv(name)
	if dir == "" {
		t.Fatalf("%s is not set: run this tier by \"make netns\" or \"make vm\", which build what it needs", name)
	}
	return dir
}

// Images is the directory of the small images of zones.
func Images(t *testing.T) string {
	t.Helper()
	return env(t, "NEREID_IMAGES")
}

// Accel probes once per test binary's process how guests run; the platform's
// kernel is what is tried.
func Accel(t *testing.T) lab.Accel {
	t.Helper()
	return lab.ProbeAccel(t.Context(), filepath.Join(env(t, "NEREID_PLATFORM"), "vmlinuz"))
}

// NewRack starts a head node and gives it a platform that carries a shell, and
// the further files that the test wants in its servers.
func NewRack(t *testing.T, extra ...map[string]string) *Rack {
	t.Helper()
	files := lab.ShellLayer()
	for _, m := range extra {
		maps.Copy(files, m)
	}
	built := env(t, "NEREID_PLATFORM")
	return newRack(t, Accel(t), func(dir, stamp string) error { return lab.Derive(t.Context(), built, dir, stamp, files) })
}

// NewServerRack starts a head node for servers without machines: its platform is
// blank.
func NewServerRack(t *testing.T) *Rack {
	t.Helper()
	return newRack(t, lab.Accel{}, lab.Blank)
}

func newRack(t *testing.T, accel lab.Accel, platform func(dir, stamp string) error) *Rack {
	t.Helper()
	dir := t.TempDir()
	r := &Rack{T: t, Bin: env(t, "NEREID_BIN"), Platform: filepath.Join(dir, "platform"), Stamp: "20260101T000000Z"}
	var err error
	r.Rack, err = lab.New(t.Context(), lab.Options{
		Dir:      filepath.Join(dir, "rack"),
		Headnode: filepath.Join(r.Bin, "nereid-headnode"),
		Accel:    accel,
		Log:      slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			r.dump()
		}
		if err := r.Close(); err != nil {
			t.Errorf("close the rack: %v", err)
		}
	})
	if err := platform(r.Platform, r.Stamp); err != nil {
		t.Fatal(err)
	}
	r.Start()
	r.Import(r.Platform)
	return r
}

// Start starts the head node.
func (r *Rack) Start() {
	r.T.Helper()
	if err := r.StartHeadnode(r.T.Context()); err != nil {
		r.T.Fatal(err)
	}
}

// Import imports a platform and makes it the default.
func (r *Rack) Import(dir string) {
	r.T.Helper()
	if _, err := lab.ImportPlatform(r.T.Context(), r.Rack, filepath.Join(r.Bin, "nereid"), dir, r.T.Output()); err != nil {
		r.T.Fatal(err)
	}
}

// Add adds a machine number n and leaves it off.
func (r *Rack) Add(n int, fw lab.Firmware, disks ...int64) *lab.Machine {
	r.T.Helper()
	return r.AddSpec(lab.MachineSpec{
		Name: fmt.Sprintf("cn%d", n), Firmware: fw, Disks: disks,
		MAC:  fmt.Sprintf("52:54:00:00:01:%02x", n),
		UUID: fmt.Sprintf("4e455245-4944-4000-8000-0000000001%02x", n),
	})
}

// AddSpec adds a machine and leaves it off.
func (r *Rack) AddSpec(spec lab.MachineSpec) *lab.Machine {
	r.T.Helper()
	m, err := r.AddMachine(r.T.Context(), spec)
	if err != nil {
		r.T.Fatal(err)
	}
	return m
}

// PowerOn powers a machine on.
func (r *Rack) PowerOn(m *lab.Machine) {
	r.T.Helper()
	if err := m.PowerOn(r.T.Context()); err != nil {
		r.T.Fatal(err)
	}
}

// Limit bounds the wait for anything that involves a boot. It is generous: it
// only says when to give up.
const Limit = 12 * time.Minute

// Wait waits until the server of m satisfies ok.
func (r *Rack) Wait(m *lab.Machine, what string, ok func(api.Server) bool) api.Server {
	r.T.Helper()
	return r.WaitUUID(m.Spec.UUID, what, ok)
}

// WaitUUID waits until a server satisfies ok.
func (r *Rack) WaitUUID(uuid, what string, ok func(api.Server) bool) api.Server {
	r.T.Helper()
	s, err := lab.WaitServer(r.T.Context(), r.Client(), uuid, what, Limit, ok)
	if err != nil {
		r.T.Fatal(err)
	}
	return s
}

// WaitState waits until the server of m is in a state.
func (r *Rack) WaitState(m *lab.Machine, want api.ServerState) api.Server {
	r.T.Helper()
	return r.Wait(m, string(want), func(s api.Server) bool { return s.State == want })
}

// Approve waits for m to ask and lets it in.
func (r *Rack) Approve(m *lab.Machine) api.Server {
	r.T.Helper()
	r.WaitState(m, api.StatePending)
	if err := r.Client().ApproveServer(r.T.Context(), m.Spec.UUID, ""); err != nil {
		r.T.Fatal(err)
	}
	return r.WaitState(m, api.StateApproved)
}

// Setup asks for a pool on m and waits until the server runs.
func (r *Rack) Setup(m *lab.Machine, spec api.SetupSpec) api.Server {
	r.T.Helper()
	if spec.Pool == "" {
		spec.Pool = "zones"
	}
	if err := r.Client().SetupServer(r.T.Context(), m.Spec.UUID, spec); err != nil {
		r.T.Fatal(err)
	}
	return r.WaitState(m, api.StateRunning)
}

// Shell runs a line in the server.
func (r *Rack) Shell(m *lab.Machine, line string) string {
	r.T.Helper()
	ctx, cancel := context.WithTimeout(r.T.Context(), 2*time.Minute)
	defer cancel()
	out, err := m.Shell(ctx, line)
	if err != nil {
		r.T.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// Legs prints a boot's waterfall into the test's log.
func (r *Rack) Legs(m *lab.Machine) api.Boot {
	r.T.Helper()
	boots, err := r.Client().Boots(r.T.Context(), m.Spec.UUID)
	if err != nil {
		r.T.Fatal(err)
	}
	if len(boots) == 0 {
		r.T.Fatalf("%s has no boot record", m.Spec.Name)
	}
	for _, l := range boots[0].Legs {
		r.T.Logf("%s: %-28s %6.2f s at %6.2f s", m.Spec.Name, l.Name, l.Seconds, l.Start)
	}
	return boots[0]
}

// dump shows the ends of all logs, for a test that failed.
func (r *Rack) dump() {
	logs, err := filepath.Glob(filepath.Join(filepath.Dir(r.HeadnodeLog()), "*"))
	if err != nil {
		return
	}
	for _, f := range logs {
		if ext := filepath.Ext(f); ext != ".log" && ext != ".console" {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		r.T.Logf("== end of %s\n%s", filepath.Base(f), b[max(0, len(b)-6000):])
	}
}
