//go:build vm

package machine

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"nereid/agent/machine/zone"
	"nereid/api"
)

// pool is the tests' own dataset, below which instances' are. It is in the pool that
// NEREID_TEST_POOL names, whose agent does not run meanwhile.
var pool = os.Getenv("NEREID_TEST_POOL") + "/zonetest"

// testDir has the files of the tests' zones.
const testDir = "/run/nereid/zonetest"

func sh(t *testing.T, line string) string {
	t.Helper()
	out, err := exec.Command("bash", "-c", line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return strings.TrimSpace(string(out))
}

// testStore has the datasets of a pool, by zfs(8).
type testStore struct{}

func zfs(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "zfs", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("zfs %v: %w: %s", args, err, out)
	}
	return nil
}

func (testStore) CloneImage(ctx context.Context, image, uuid string, mib int) error {
	if zfs(ctx, "list", pool+"/"+uuid) == nil {
		return nil
	}
	return zfs(ctx, "clone", "-o", fmt.Sprintf("quota=%dM", mib), "-o", "canmount=noauto", "-o", "mountpoint=legacy", pool+"/"+image+"@final", pool+"/"+uuid)
}

func (testStore) SetQuota(ctx context.Context, uuid string, mib int) error {
	return zfs(ctx, "set", fmt.Sprintf("quota=%dM", mib), pool+"/"+uuid)
}

func (testStore) KeepSpec(ctx context.Context, uuid string, spec []byte) error {
	return zfs(ctx, "set", "nereid:spec="+string(spec), pool+"/"+uuid)
}

func (testStore) DropInstance(ctx context.Context, uuid string) error {
	if zfs(ctx, "list", pool+"/"+uuid) != nil {
		return nil
	}
	return zfs(ctx, "destroy", "-r", pool+"/"+uuid)
}

// real is a server with an image of busybox, whose init is the one of the tests.
type real struct {
	*Machines
	t       *testing.T
	units   *Systemd
	stop    func()
	changed chan string
}

const testImage = "image-busybox"

// makeImage makes an image's dataset of the file in NEREID_TEST_IMAGE, and sets it up with
// a script, whose $r is its root.
func makeImage(t *testing.T, name, setup string) {
	t.Helper()
	sh(t, "zfs create -o mountpoint=legacy -o xattr=sa -o acltype=posixacl "+pool+"/"+name)
	dir := t.TempDir()
	sh(t, "mount -t zfs "+pool+"/"+name+" "+dir)
	sh(t, "set -e; r="+dir+"/root; mkdir $r; zstd -dc "+os.Getenv("NEREID_TEST_IMAGE")+" | tar -x -C $r\n"+setup)
	sh(t, "umount "+dir+" && zfs snapshot "+pool+"/"+name+"@final")
}

func newReal(t *testing.T) *real {
	t.Helper()
	for _, name := range []string{"NEREID_TEST_POOL", "NEREID_TEST_IMAGE"} {
		if os.Getenv(name) == "" {
			t.Fatal(name + " is not set: integration/instance runs this in a server")
		}
	}
	clean := func() {
		for _, u := range strings.Fields(sh(t, "systemctl list-units --all --plain --no-legend 'nereid-zone-11111111-*' 'nereid-vm-11111111-*' | awk '{print $1}'")) {
			exec.Command("systemctl", "kill", "-s", "KILL", u).Run()
			exec.Command("systemctl", "stop", u).Run()
			exec.Command("systemctl", "reset-failed", u).Run()
		}
		sh(t, "for l in $(ls /sys/class/net | grep ^np02aa000000); do ip link del $l; done; rm -rf "+testDir+"; ! zfs list "+pool+" 2> /dev/null || zfs destroy -r "+pool)
	}
	clean()
	t.Cleanup(clean)
	sh(t, "zfs create -o mountpoint=none -o canmount=off "+pool)
	makeImage(t, testImage, `echo '::sysinit:/bin/sh /etc/rc
::respawn:/bin/sleep 86400
::shutdown:/bin/true' > $r/etc/inittab; echo 'echo the zone $(hostname) began; ip -o addr > /booted' > $r/etc/rc`)
	r := &real{t: t}
	r.start()
	return r
}

// start is what a start of the agent does.
func (r *real) start() {
	t := r.t
	r.units = &Systemd{}
	r.changed = make(chan string, 1000)
	changed := r.changed
	r.Machines = &Machines{Store: testStore{}, Disks: testStore{}, Units: r.units, Hypervisor: func() Hypervisor { return Hypervisor{QEMU: true} }, Dir: testDir, Pool: pool, Prepare: Prepare, Live: Live,
		Ready: func(mac string) bool { // by NICs' workers, in no bridge
			sh(t, "[ -e /sys/class/net/"+zone.Port(mac)+" ] || ip link add "+zone.Port(mac)+" type veth peer name "+zone.Peer(mac)+" address "+mac)
			return true
		},
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Changed: func(uuid string) {
			select {
			case changed <- uuid:
			default:
			}
		}}
	r.ImageThere(testImage, true)
	ctx, cancel := context.WithCancel(t.Context())
	listed, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		once := false
		err := r.units.Watch(ctx, func(all map[string]State) {
			r.SawAll(all)
			if !once {
				once = true
				close(listed)
			}
		}, r.Saw)
		if err != nil {
			t.Error(err)
		}
	}()
	<-listed
	attended := make(chan error)
	m := r.Machines
	go func() { attended <- m.Attend(ctx) }()
	r.stop = sync.OnceFunc(func() { cancel(); <-ended; <-attended; r.units.Close() })
	t.Cleanup(r.stop)
}

// until calls Set until an instance is as it is asked for.
func (r *real) until(w Wanted, uuid, what string, is func(api.InstanceStatus, bool) bool) api.InstanceStatus {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 4*time.Minute)
	defer cancel()
	begun := time.Now()
	defer func() { r.t.Logf("%-32s %6.2f s", what, time.Since(begun).Seconds()) }()
	var err error
	for {
		var st api.InstanceStatus
		var gone bool
		st, gone, err = r.Set(ctx, uuid, w)
		if err == nil && is(st, gone) {
			return st
		}
		select {
		case <-r.changed:
		case <-time.After(2 * time.Second): // what an error is tried again after
		case <-ctx.Done():
			r.t.Fatalf("%s: %+v, %v\n%s", what, st, err, sh(r.t, "journalctl --no-pager -n 60 -u "+Unit(uuid)+"; cat "+filepath.Join(zone.Consoles, "to", "*")+" 2>&1 | tail -30; true"))
		}
	}
}

func runs(st api.InstanceStatus, _ bool) bool   { return st.State == api.InstanceRunning }
func stops(st api.InstanceStatus, _ bool) bool  { return st.State == api.InstanceStopped }
func gone(_ api.InstanceStatus, gone bool) bool { return gone }

func testSpec(n int) *api.InstanceSpec {
	uuid := fmt.Sprintf("11111111-1111-4111-8111-%012d", n)
	return &api.InstanceSpec{UUID: uuid, Name: "web", Hostname: fmt.Sprintf("web%d", n), DNSDomain: "example.com", Brand: api.BrandLX, Image: testImage,
		Wanted: api.InstanceRunning, Resolvers: []string{"10.9.0.1"},
		Metadata: map[string]any{"root_authorized_keys": "ssh-ed25519 AAAA test"},
		NICs: []api.InstanceNIC{{Interface: "net0", MAC: fmt.Sprintf("02:aa:00:00:00:%02x", n), MTU: 1400, Primary: true,
			Addresses: []api.PortAddress{{Address: fmt.Sprintf("10.9.0.%d/24", 10+n), Gateway: "10.9.0.1", Routes: map[string]string{"10.10.0.0/16": "10.9.0.2"}}}}},
		Limits: api.Limits{MemoryMiB: 128, VCPUs: 1, QuotaMiB: 64, CPUCapPercent: 50, Processes: 100}}
}

// in runs a line in a zone, as its root.
func (r *real) in(uuid, line string) string {
	r.t.Helper()
	leader := sh(r.t, "machinectl show -p Leader --value "+uuid)
	return sh(r.t, "nsenter -t "+leader+" -a /bin/sh -c 'export PATH=/bin:/sbin; "+line+"'")
}

// TestRealZone: a zone begins with its name, addresses, routes, resolvers, hosts and keys;
// it is stopped, started, rebooted from inside and by request, and removed; an agent that
// starts anew finds it running and does nothing.
func TestRealZone(t *testing.T) {
	r := newReal(t)
	spec := testSpec(1)
	w := Wanted{Spec: spec}
	st := r.until(w, spec.UUID, "running", runs)
	t.Logf("%+v", st)
	// An instance runs when its init is about to be executed; what that does comes later.
	waitFor(t, "what the init does first", func() bool { return strings.Contains(r.in(spec.UUID, "cat /booted || true"), "10.9.0.11/24") })
	for line, want := range map[string]string{
		"hostname": "web1", "cat /etc/hostname": "web1", "cat /etc/resolv.conf": "nameserver 10.9.0.1", "cat /etc/hosts": "10.9.0.11 web1.example.com web1",
		"cat /root/.ssh/authorized_keys": "ssh-ed25519 AAAA test", "ip addr show net0": "10.9.0.11/24", "ip route": "default via 10.9.0.1 dev net0",
		"ip route show 10.10.0.0/16": "via 10.9.0.2", "cat /booted": "10.9.0.11/24", "cat /proc/1/cmdline": "init", "grep Seccomp: /proc/1/status": "2",
		"cat /proc/1/oom_score_adj": "0", "mount": "idmapped",
	} {
		if out := r.in(spec.UUID, line); !strings.Contains(out, want) {
			t.Errorf("%s: %q, want %q", line, out, want)
		}
	}
	if n := sh(t, "grep -c zonetest /proc/mounts || true"); n != "0" {
		t.Errorf("%s mounts of datasets on the server", n)
	}
	if owner := sh(t, "unshare -m sh -c 'mount -t zfs "+pool+"/"+spec.UUID+" /mnt && stat -c %u:%g /mnt/root/booted'"); owner != "0:0" {
		t.Errorf("on the disk a file of the zone's root is %s's", owner)
	}
	if adj := sh(t, "cat /proc/$(systemctl show -p MainPID --value "+Unit(spec.UUID)+")/oom_score_adj"); adj != "-1000" {
		t.Errorf("nspawn's oom_score_adj is %s", adj)
	}

	// A newer agent finds what runs, and does nothing.
	leader := sh(t, "machinectl show -p Leader --value "+spec.UUID)
	r.stop()
	r.start()
	r.Known(map[string]*api.InstanceSpec{spec.UUID: spec}, nil)
	if again := r.until(w, spec.UUID, "adopted", runs); !again.Started.Equal(st.Started) && again.Started.Sub(st.Started).Abs() > time.Second {
		t.Errorf("it runs since %v, and ran since %v", again.Started, st.Started)
	}
	if now := sh(t, "machinectl show -p Leader --value "+spec.UUID); now != leader {
		t.Errorf("the leader is %s, and was %s", now, leader)
	}

	// From inside: a reboot needs no agent, and a power off is one. A NIC that was in no
	// bridge is the agent's to make and to give to the zone.
	r.stop()
	r.in(spec.UUID, "kill -TERM 1")
	waitFor(t, "another leader", func() bool {
		now, err := exec.Command("machinectl", "show", "-p", "Leader", "--value", spec.UUID).Output()
		return err == nil && strings.TrimSpace(string(now)) != leader && sh(t, "systemctl is-active "+Unit(spec.UUID)+" || true") == "active"
	})
	r.start()
	r.Known(map[string]*api.InstanceSpec{spec.UUID: spec}, nil)
	r.until(w, spec.UUID, "running after a reboot from inside", runs)
	if now := r.in(spec.UUID, "ip addr show net0"); !strings.Contains(now, "10.9.0.11/24") {
		t.Errorf("after a reboot from inside it has %s", now)
	}
	r.in(spec.UUID, "kill -USR2 1")
	r.until(w, spec.UUID, "stopped from inside", stops)

	// A request starts it; the same one again does not.
	asked := *spec
	asked.Reboot = "r1"
	w.Spec = &asked
	st = r.until(w, spec.UUID, "running by request", runs)
	if len(st.Done) != 1 || st.Done[0] != "r1" {
		t.Errorf("done %q", st.Done)
	}
	// A kill of nspawn takes the pair along. The mounts that it would leave went with its
	// mount namespace: it is started again.
	sh(t, "kill -9 $(systemctl show -p MainPID --value "+Unit(spec.UUID)+")")
	waitFor(t, "the end of the unit", func() bool { return sh(t, "systemctl is-active "+Unit(spec.UUID)+" || true") != "active" })
	if n := sh(t, "grep -c "+spec.UUID+" /proc/mounts || true"); n != "0" {
		t.Errorf("nspawn's end left %s mounts on the server", n)
	}
	before := st.Started
	st = r.until(w, spec.UUID, "running after a crash", func(st api.InstanceStatus, _ bool) bool {
		return st.State == api.InstanceRunning && st.Started.After(before)
	})
	asked.Wanted = api.InstanceStopped
	r.until(w, spec.UUID, "stopped", stops)
	asked.Wanted = api.InstanceRunning
	r.until(w, spec.UUID, "running", runs)
	asked.Force, asked.Wanted = "f1", api.InstanceStopped
	st = r.until(w, spec.UUID, "killed", stops)
	w.Gone = true
	r.until(w, spec.UUID, "gone", gone)
	if left := sh(t, "zfs list -H -o name; ls "+testDir+" "+zone.Consoles+"; systemctl list-units --all --no-legend 'nereid-zone-*'"); strings.Contains(left, spec.UUID) {
		t.Errorf("left is\n%s", left)
	}
}

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !is(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in time", what)
		}
	}
}
