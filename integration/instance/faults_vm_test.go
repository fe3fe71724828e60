//go:build vm

package instance

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"nereid/api"
	"nereid/integration/lab"
	"nereid/integration/lab/labtest"
)

// ballast is what images of the tests have beside the tiny image, in bytes: a server
// needs seconds for them, so that a fetch can be cut.
const ballast = 16 << 20

// heavy imports the tiny image with ballast, another one for each number.
func (o operator) heavy(name string, number byte) api.Image {
	o.T.Helper()
	in, err := os.Open(filepath.Join(labtest.Images(o.T), "tiny", "image.tar.zst"))
	if err != nil {
		o.T.Fatal(err)
	}
	defer in.Close()
	path := filepath.Join(o.T.TempDir(), name+".tar")
	out, err := os.Create(path)
	if err != nil {
		o.T.Fatal(err)
	}
	defer out.Close()
	if err := weigh(out, in, number); err != nil {
		o.T.Fatal(err)
	}
	var img api.Image
	o.read(&img, "image", "import", path, "--name", name, "--version", "1")
	o.Undo("image", "delete", img.UUID, "--yes")
	return img
}

// weigh copies a compressed tar and adds a file of random bytes.
func weigh(to io.Writer, from io.Reader, number byte) error {
	z, err := zstd.NewReader(from)
	if err != nil {
		return err
	}
	defer z.Close()
	r, w := tar.NewReader(z), tar.NewWriter(to)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = w.WriteHeader(h)
		}
		if err == nil {
			_, err = io.Copy(w, r)
		}
		if err != nil {
			return err
		}
	}
	if err := w.WriteHeader(&tar.Header{Name: "ballast", Mode: 0o644, Size: ballast, Format: tar.FormatPAX}); err != nil {
		return err
	}
	if _, err := io.CopyN(w, rand.NewChaCha8([32]byte{number}), ballast); err != nil {
		return err
	}
	return w.Close()
}

// ask asks for a small instance on a server, until the test ends.
func (o operator) ask(name, image, ip string, on *lab.Machine) api.Instance {
	o.T.Helper()
	o.nereid("instance", "create", name, "--owner", alice, "--image", image, "--package", "fault", "--network", "web="+ip, "--on", on.Spec.Name)
	return o.instance(name)
}

// await waits until an instance satisfies ok. The head node may be away for a while.
func (o operator) await(uuid, what string, ok func(api.Instance) bool) api.Instance {
	o.T.Helper()
	ctx, cancel := context.WithTimeout(o.T.Context(), 8*time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last api.Instance
	for {
		i, err := o.Client().Instances().Get(ctx, uuid)
		if err == nil && ok(i) {
			return i
		}
		if err == nil {
			last = i
		}
		select {
		case <-ctx.Done():
			o.T.Fatalf("instance %s is not %s; it is %s: %s (%v)", last.Name, what, last.State, last.Reason, err)
		case <-tick.C:
		}
	}
}

func (o operator) awaitState(uuid, state string) api.Instance {
	o.T.Helper()
	return o.await(uuid, state, func(i api.Instance) bool { return i.State == state })
}

// remove deletes an instance, and waits until nothing is left of it.
func (o operator) remove(i api.Instance) {
	o.T.Helper()
	o.nereid("instance", "delete", i.UUID, "--yes")
	o.awaitState(i.UUID, api.InstanceDeleted)
}

// fetching is a line of shell that succeeds once an instance's image is on its way.
func fetching(i api.Instance) string { return "zfs list zones/" + i.Image + "-partial" }

// reach waits in a server until a line of shell succeeds.
func (o operator) reach(m *lab.Machine, line string) {
	o.T.Helper()
	ctx, cancel := context.WithTimeout(o.T.Context(), 6*time.Minute) // a busy host emulates slowly
	defer cancel()
	if _, err := m.Shell(ctx, "timeout 340 bash -c 'until { "+line+"; } >/dev/null 2>&1; do sleep 0.1; done'"); err != nil {
		o.T.Fatal(err)
	}
}

// TestVMInstanceFaults breaks what makes and removes instances, at phases that the server
// or the report shows. What was asked for comes true each time, and nothing is left.
func TestVMInstanceFaults(t *testing.T) {
	r := labtest.Standard(t)
	o := operator{r}
	one, two := r.Machines()[0], r.Machines()[1]
	if out, err := o.try("package", "create", "fault", "--memory-mib", "64", "--vcpus", "1", "--quota-mib", "256"); err != nil && !strings.Contains(out, "there is a package") {
		t.Fatal(out)
	}
	o.Undo("package", "disable", "fault")
	o.network()
	a, b, c := o.heavy("fault-a", 1), o.heavy("fault-b", 2), o.heavy("fault-c", 3)

	t.Run("head node killed at each state", func(t *testing.T) { o.within(t).headKilled(a, one) })
	t.Run("image damaged in the store", func(t *testing.T) { o.within(t).damaged(c, one) })
	t.Run("server cut off", func(t *testing.T) { o.within(t).cutOff(c, two) })
	t.Run("pool full", func(t *testing.T) { o.within(t).full(b, two) })
	t.Run("server rebooted with a zone that does not stop", func(t *testing.T) { o.within(t).rebooted(b, two) })
	for _, m := range r.Machines() {
		if left := o.Shell(m, "ls -A /run/nereid/zones; find /run/nereid/consoles -type p"); left != "" {
			t.Errorf("on %s are left: %s", m.Spec.Name, left)
		}
	}
}

// within is the operator of a subtest.
func (o operator) within(t *testing.T) operator {
	r := *o.Rack
	r.T = t
	return operator{&r}
}

func (o operator) try(args ...string) (string, error) {
	o.T.Helper()
	cmd := o.Exec(o.T.Context(), filepath.Join(o.Bin, "nereid"), append([]string{"--server", o.Socket()}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// headKilled: SIGKILL to the head node whenever an instance shows a state, or what it
// waits for, for the first time, from its create to its end.
func (o operator) headKilled(image api.Image, on *lab.Machine) {
	t := o.T
	i := o.ask("headless", image.UUID, "192.168.7.20", on)
	killed := map[string]bool{}
	crash := func(i api.Instance) {
		what, _, _ := strings.Cut(i.State+": "+i.Reason, ", 0 of")
		if len(i.Reason) > 30 {
			what = i.State + ": " + i.Reason[:30]
		}
		if !killed[what] && i.State != api.InstanceUnknown && i.State != api.InstanceDeleted {
			killed[what] = true
			t.Logf("SIGKILL at %q", what)
			o.KillHeadnode()
			o.Start()
		}
	}
	crash(i)
	o.await(i.UUID, "running", func(i api.Instance) bool {
		crash(i)
		return i.State == api.InstanceRunning
	})
	o.nereid("instance", "delete", i.UUID, "--yes")
	o.await(i.UUID, "deleted", func(i api.Instance) bool {
		crash(i)
		return i.State == api.InstanceDeleted
	})
	if len(killed) < 5 {
		t.Errorf("killed at %d states only: %v", len(killed), killed)
	}
	for _, m := range o.Machines() {
		o.Wait(m, "heard of by the new head node", func(s api.Server) bool { return s.State == api.StateRunning })
	}
}

// damaged: a bit of the image's file is another one on the head node. No server takes
// it; the instance says why, and runs once the image was imported again.
func (o operator) damaged(image api.Image, on *lab.Machine) {
	t := o.T
	path := filepath.Join(o.DataDir(), "instance-images", "files", image.UUID)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(good)
	bad[len(bad)/2] ^= 1
	if err := errors.Join(os.Remove(path), os.WriteFile(path, bad, 0o600)); err != nil {
		t.Fatal(err)
	}
	i := o.ask("damaged", image.UUID, "192.168.7.22", on)
	i = o.await(i.UUID, "told why its image is not there", func(i api.Instance) bool { return strings.Contains(i.Reason, "could not be fetched") })
	t.Logf("the instance says: %s", i.Reason)
	if i.State != api.InstanceProvisioning {
		t.Errorf("it is %s", i.State)
	}
	if out := o.Shell(on, "zfs list -H -o name | grep -e "+image.UUID+"@ || true"); out != "" {
		t.Errorf("the server took a damaged image: %s", out)
	}
	if out, err := o.try("image", "verify", image.UUID); err == nil || !strings.Contains(out, "failed") {
		t.Errorf("verify says: %v %s", err, out)
	}
	file := filepath.Join(t.TempDir(), "good.tar")
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	o.nereid("image", "import", file, "--name", image.Name, "--version", image.Version)
	o.awaitState(i.UUID, api.InstanceRunning)
	o.remove(i)
}

// cutOff: a server's cable is out when an instance is asked for, while its image comes,
// and when it is to go.
func (o operator) cutOff(image api.Image, on *lab.Machine) {
	cable := func(in bool) {
		o.T.Helper()
		if err := on.AdminLink(o.T.Context(), in); err != nil {
			o.T.Fatal(err)
		}
	}
	o.T.Cleanup(func() { _ = on.AdminLink(context.WithoutCancel(o.T.Context()), true) })
	cable(false)
	i := o.ask("cutoff", image.UUID, "192.168.7.23", on)
	if i.State != api.InstanceProvisioning || i.Server != on.Spec.UUID {
		o.T.Errorf("made while its server is cut off: %+v", i)
	}
	cable(true)
	o.reach(on, fetching(i))
	cable(false)
	o.reach(on, "ss -tni dst 10.99.99.7 | grep -q backoff") // the server noticed
	cable(true)
	o.awaitState(i.UUID, api.InstanceRunning)
	cable(false)
	o.nereid("instance", "delete", i.UUID, "--yes")
	if now := o.instance(i.UUID); now.State == api.InstanceDeleted {
		o.T.Error("it is deleted, and its server did not say so")
	}
	cable(true)
	o.awaitState(i.UUID, api.InstanceDeleted)
}

// full: a pool that has no room for an image says so, and goes on when it has.
func (o operator) full(image api.Image, on *lab.Machine) {
	o.Shell(on, "zfs create -o mountpoint=none -o refreservation=$(( $(zfs get -Hpo value available zones) - 4194304 )) zones/fill")
	o.T.Cleanup(func() { // where the test failed
		_, _ = on.Shell(context.WithoutCancel(o.T.Context()), "if zfs list zones/fill >/dev/null 2>&1; then zfs destroy zones/fill; fi")
	})
	i := o.ask("full", image.UUID, "192.168.7.24", on)
	i = o.await(i.UUID, "told that the pool is full", func(i api.Instance) bool { return strings.Contains(i.Reason, "space") })
	o.T.Logf("the instance says: %s", i.Reason)
	o.Shell(on, "zfs destroy zones/fill")
	o.awaitState(i.UUID, api.InstanceRunning)
	o.remove(i)
}

// rebooted: a server with an instance is not forgotten and not reset, and its reboot names
// what it stops. A zone whose init hears nothing is killed in time, and runs again after
// the boot.
func (o operator) rebooted(image api.Image, on *lab.Machine) {
	ctx := o.T.Context()
	i := o.ask("stubborn", image.UUID, "192.168.7.25", on)
	o.awaitState(i.UUID, api.InstanceRunning)
	before := o.Wait(on, "running", func(s api.Server) bool { return s.State == api.StateRunning })
	for what, err := range map[string]error{
		"forget": o.Client().ForgetServer(ctx, on.Spec.UUID),
		"reset":  o.Client().ResetServer(ctx, on.Spec.UUID, api.ServerReset{Hostname: on.Spec.Name}),
		"reboot": o.Client().RebootServer(ctx, on.Spec.UUID),
	} {
		if got := names(err); !strings.Contains(got, "stubborn") {
			o.T.Errorf("%s of a server with an instance: %s", what, got)
		}
	}
	o.Shell(on, "kill -STOP "+leader(o, zone{i, on}))
	o.nereid("server", "reboot", on.Spec.Name, "--yes")
	asked := time.Now()
	o.Wait(on, "running in a new boot", func(s api.Server) bool { return s.State == api.StateRunning && s.BootID != before.BootID })
	o.await(i.UUID, "running again", func(now api.Instance) bool {
		return now.State == api.InstanceRunning && now.Started.After(asked)
	})
	o.inside(zone{i, on}, "true")
	o.remove(i)
}

// names says what an error of side effects names.
func names(err error) string {
	var p *api.Problem
	if !errors.As(err, &p) {
		return fmt.Sprint(err)
	}
	return string(p.Code) + ": " + p.Detail + ": " + strings.Join(p.Errors, "; ")
}
