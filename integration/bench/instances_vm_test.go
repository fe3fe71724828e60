//go:build vm

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/integration/lab"
	"nereid/integration/lab/labtest"
)

// Of the benchmark of zones.
const (
	zoneRounds = 5   // of each step, in turns; medians are printed
	zonesAtOne = 50  // at once
	zonesSmall = 200 // on one server
	benchOwner = "be9c4000-0000-4000-8000-00000000000b"
)

// zoneByHand does with a server's own programs what the agent does for a zone: a clone
// with a quota, a pair of interfaces in a bridge, systemd-nspawn in a unit of systemd's with
// limits, an address and a route. It is done when the zone's init is executed, as the
// agent's is said to run then: systemd-nspawn says that it is ready before it has made its
// filter of system calls. Its zone N has no rules, no spec, no metadata and no log.
const zoneByHand = `#!/bin/bash
set -e
image=$(cat /run/byhand.image); n=$2
start() {
	udevadm wait --initialized=true /sys/class/net/hz$n
	systemd-run --quiet --unit=hand$n --slice=machine.slice -p Type=notify -p NotifyAccess=all -p Delegate=yes -p KillMode=mixed -p MemoryMax=64M -p TasksMax=400 -p CPUQuota=100% \
		-- unshare -m --propagation slave sh -c "mkdir -p /run/hand && mount -t zfs zones/hand$n /run/hand && exec systemd-nspawn --quiet --keep-unit --register=yes --settings=no --link-journal=no \
		--resolv-conf=off --timezone=off --console=read-only --machine=hand$n --directory=/run/hand/root --private-users=$((1600000000 / 65536 * 65536 + n * 65536)):65536 --private-users-ownership=map \
		--private-network --network-interface=hz$n:net0 --kill-signal=SIGUSR2 /sbin/init"
	l=$(machinectl show --value -p Leader hand$n)
	printf '%s\n' "addr add 198.18.200.$n/16 dev net0" "link set net0 up" "link set lo up" "route add default via 198.18.0.1" | nsenter -n -t $l ip -batch -
	until read -r comm < /proc/$l/comm && [ "$comm" = init ]; do sleep 0.01; done
}
case $1 in
bridge) ip link add hand0 type bridge; ip link set hand0 up ;;
create)
	zfs clone -o quota=64M -o canmount=noauto -o mountpoint=legacy zones/$image@final zones/hand$n
	ip link add hp$n type veth peer name hz$n; ip link set hp$n master hand0 up
	start ;;
start) start ;;
stop) systemctl stop hand$n ;;
snapshot) zfs snapshot -r zones/hand$n@s ;;
rollback)
	systemctl stop hand$n
	zfs rollback -r zones/hand$n@s
	start ;;
exec) nsenter -t $(machinectl show --value -p Leader hand$n) -a /bin/true ;;
destroy)
	systemctl stop hand$n; ip link del hp$n 2>/dev/null || true
	zfs destroy -r zones/hand$n ;;
esac
`

// zoneBench is one server with the image of zones on its pool.
type zoneBench struct {
	*labtest.Rack
	m     *lab.Machine
	image string
}

// TestBenchZones measures instances on an emulated server with real ZFS, in one run
// beside what an operator does by hand there. It prints; it judges nothing.
func TestBenchZones(t *testing.T) {
	r := labtest.NewRack(t, map[string]string{"/usr/lib/lab/hand": zoneByHand})
	b := zoneBench{Rack: r}
	b.m = r.AddSpec(lab.MachineSpec{Name: "cn1", MAC: "52:54:00:00:01:01", UUID: "4e455245-4944-4000-8000-000000000101",
		DataMACs: []string{"52:54:00:00:02:01"}, Disks: []int64{16 << 30}, MemoryMB: 4096})
	r.PowerOn(b.m)
	r.Approve(b.m)
	r.Setup(b.m, api.SetupSpec{})
	for _, args := range [][]string{
		{"nictag", "create", "ext"},
		{"nictag", "provide", b.m.Spec.UUID, b.m.Spec.DataMACs[0], "ext"},
		{"network", "create", "ext", "--nic-tag", "ext", "--subnet", "198.18.0.0/16", "--gateway", "198.18.0.1", "--start", "198.18.0.10"},
		{"package", "create", "least", "--memory-mib", "16", "--vcpus", "1", "--quota-mib", "64"},
	} {
		b.nereid(args...)
	}
	settings, err := b.Client().InstanceSettings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	settings.CPURatio, settings.MemoryRatio = 64, 2 // the zones are idle
	if _, err := b.Client().SetInstanceSettings(t.Context(), settings); err != nil {
		t.Fatal(err)
	}
	t.Run("imports", func(t *testing.T) { b.of(t).imports() })
	var img api.Image
	if err := json.Unmarshal([]byte(b.nereid("-o", "json", "image", "import", filepath.Join(labtest.Images(t), "tiny"))), &img); err != nil {
		t.Fatal(err)
	}
	b.image = img.UUID
	b.create("first") // and has the image, and makes the server ready for zones
	b.running("first")
	r.Shell(b.m, "echo "+b.image+" > /run/byhand.image; chmod 700 /run; install -m 700 /usr/lib/lab/hand /run/hand.sh; /run/hand.sh bridge")
	t.Run("steps", func(t *testing.T) { b.of(t).steps() })
	t.Run("at once", func(t *testing.T) { b.of(t).atOnce() })
	t.Run("small", func(t *testing.T) { b.of(t).small() })
}

// of is the benchmark in a test of a test.
func (b zoneBench) of(t *testing.T) zoneBench {
	r := *b.Rack
	r.T = t
	b.Rack = &r
	return b
}

func (b zoneBench) nereid(args ...string) string {
	b.T.Helper()
	out, err := b.Exec(b.T.Context(), filepath.Join(b.Bin, "nereid"), append([]string{"--server", b.Socket()}, args...)...).Output()
	if err != nil {
		var text []byte
		if e, ok := err.(*exec.ExitError); ok {
			text = e.Stderr
		}
		b.T.Fatalf("nereid %s: %v\n%s%s", strings.Join(args, " "), err, out, text)
	}
	return string(out)
}

func (b zoneBench) create(name string) {
	b.T.Helper()
	_, err := b.Client().CreateInstance(b.T.Context(), api.InstanceCreate{Name: name, Owner: benchOwner, Image: b.image, Package: "least",
		Networks: []api.InstanceNetwork{{Addresses: []api.NICAddress{{Network: "ext"}}}}})
	if err != nil {
		b.T.Fatal(err)
	}
}

// until waits until an instance is as it is asked for, and looks every 5 ms.
func (b zoneBench) until(name, what string, is func(api.Instance) bool) {
	b.T.Helper()
	ctx, cancel := context.WithTimeout(b.T.Context(), 10*time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		i, err := b.Client().Instances().Get(ctx, name)
		if err != nil {
			b.T.Fatalf("wait for %s to be %s: %v", name, what, err)
		}
		if is(i) {
			return
		}
		<-tick.C
	}
}

func (b zoneBench) running(name string) {
	b.T.Helper()
	b.until(name, "running", func(i api.Instance) bool { return i.State == api.InstanceRunning })
}

// hand runs a step by hand in the server.
func (b zoneBench) hand(args string) {
	b.T.Helper()
	ctx, cancel := context.WithTimeout(b.T.Context(), 30*time.Minute)
	defer cancel()
	if out, err := b.m.Shell(ctx, args); err != nil {
		b.T.Fatalf("%s: %v\n%s", args, err, out)
	}
}

func seconds(f func()) float64 {
	begun := time.Now()
	f()
	return time.Since(begun).Seconds()
}

func row(what string, ours, theirs []float64) {
	a, h := median(ours), median(theirs)
	fmt.Printf("%-34s %7.2f s; by hand %7.2f s; ratio %.2f (%.2f and %.2f)\n", what, a, h, a/h, ours, theirs)
}

// steps are those of one zone and of nothing else, in turns with those by hand.
func (b zoneBench) steps() {
	type pair struct{ ours, theirs []float64 }
	all := map[string]*pair{}
	one := func(what string, ours, theirs func()) {
		p := all[what]
		if p == nil {
			p = &pair{}
			all[what] = p
		}
		p.ours = append(p.ours, seconds(ours))
		p.theirs = append(p.theirs, seconds(theirs))
	}
	c, ctx := b.Client(), b.T.Context()
	must := func(_ api.Instance, err error) {
		b.T.Helper()
		if err != nil {
			b.T.Fatal(err)
		}
	}
	for n := 1; n <= zoneRounds; n++ {
		name := fmt.Sprintf("one%d", n)
		hand := func(verb string) func() { return func() { b.hand(fmt.Sprintf("/run/hand.sh %s %d", verb, n)) } }
		one("create to running", func() { b.create(name); b.running(name) }, hand("create"))
		one("exec", func() { b.nereid("instance", "exec", name, "--", "/bin/true") }, hand("exec"))
		one("snapshot", func() { b.snapshot(name) }, hand("snapshot"))
		one("rollback, with stop and start", func() { b.rollBack(name) }, hand("rollback"))
		one("stop", func() {
			must(c.StopInstance(ctx, name, false))
			b.until(name, "stopped", func(i api.Instance) bool { return i.State == api.InstanceStopped })
		}, hand("stop"))
		one("start", func() { must(c.StartInstance(ctx, name)); b.running(name) }, hand("start"))
		one("delete", func() { b.delete(name) }, hand("destroy"))
	}
	for _, what := range []string{"create to running", "exec", "snapshot", "rollback, with stop and start", "stop", "start", "delete"} {
		row(what, all[what].ours, all[what].theirs)
	}
}

// snapshot takes a snapshot of an instance, and waits until it is there.
func (b zoneBench) snapshot(name string) {
	b.T.Helper()
	ctx := b.T.Context()
	s, err := b.Client().CreateSnapshot(ctx, name, api.SnapshotCreate{Name: "s"})
	for err == nil && s.State != api.SnapshotCreated {
		time.Sleep(5 * time.Millisecond)
		s, err = b.Client().Snapshot(ctx, name, "s")
	}
	if err != nil {
		b.T.Fatal(err)
	}
}

// rollBack has an instance that runs go back to its snapshot, and waits until it runs again.
func (b zoneBench) rollBack(name string) {
	b.T.Helper()
	before, err := b.Client().Instances().Get(b.T.Context(), name)
	if err == nil {
		_, err = b.Client().RollBack(api.WithConfirm(b.T.Context(), api.ConfirmAll), name, "s")
	}
	if err != nil {
		b.T.Fatal(err)
	}
	b.until(name, "running again", func(i api.Instance) bool {
		return i.State == api.InstanceRunning && i.Started.After(before.Started)
	})
}

func (b zoneBench) delete(name string) {
	b.T.Helper()
	b.deleted(b.goes(name))
}

// goes tells an instance to go, and gives its UUID: its name is free once it is gone.
func (b zoneBench) goes(name string) string {
	b.T.Helper()
	i, err := b.Client().DeleteInstance(b.T.Context(), name, false)
	if err != nil {
		b.T.Fatal(err)
	}
	return i.UUID
}

func (b zoneBench) deleted(uuid string) {
	b.T.Helper()
	b.until(uuid, "deleted", func(i api.Instance) bool { return i.State == api.InstanceDeleted })
}

// list counts instances in a state.
func (b zoneBench) list(state string) (n int) {
	b.T.Helper()
	for _, err := range b.Client().Instances().All(b.T.Context(), url.Values{"owner": {benchOwner}, "state": {state}}) {
		if err != nil {
			b.T.Fatal(err)
		}
		n++
	}
	return n
}

// many makes zones at once and waits until they run, and gives what ends them.
func (b zoneBench) many(prefix string, count int) (took float64, end func()) {
	before := b.list("running")
	took = seconds(func() {
		for n := range count {
			b.create(fmt.Sprintf("%s-%d", prefix, n))
		}
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.Now().Add(30 * time.Minute); b.list("running") < before+count; <-tick.C {
			if time.Now().After(deadline) {
				b.T.Fatalf("%d of %d zones run", b.list("running")-before, count)
			}
		}
	})
	return took, func() {
		var gone []string
		for n := range count {
			gone = append(gone, b.goes(fmt.Sprintf("%s-%d", prefix, n)))
		}
		for _, uuid := range gone {
			b.deleted(uuid)
		}
	}
}

func (b zoneBench) atOnce() {
	ours, end := b.many("many", zonesAtOne)
	end()
	theirs := seconds(func() { b.hand(fmt.Sprintf("seq 101 %d | xargs -P 8 -n 1 /run/hand.sh create", 100+zonesAtOne)) })
	b.hand(fmt.Sprintf("seq 101 %d | xargs -P 8 -n 1 /run/hand.sh destroy", 100+zonesAtOne))
	row(fmt.Sprintf("%d at once (by hand: 8)", zonesAtOne), []float64{ours}, []float64{theirs})
}

// small says what many small zones cost a server.
func (b zoneBench) small() {
	const used = `awk '/MemTotal/{t=$2} /MemAvailable/{a=$2} END {print int((t-a)/1024)}' /proc/meminfo`
	before := b.Shell(b.m, used)
	took, end := b.many("small", zonesSmall)
	fmt.Printf("%d small zones run after %.1f s; the server uses %s MiB, and used %s; its agent: %s\n", zonesSmall, took, b.Shell(b.m, used), before,
		strings.Join(strings.Fields(b.Shell(b.m, "grep -E 'VmRSS|VmHWM' /proc/$(systemctl show -p MainPID --value nereid-agent)/status")), " "))
	alone := seconds(func() { b.create("more"); b.running("more") })
	fmt.Printf("one zone more beside them: %.2f s\n", alone)
	b.delete("more")
	end()
}

// imports measures the import of an image, in the agent's package that does it.
func (b zoneBench) imports() {
	image, err := os.ReadFile(filepath.Join(labtest.Images(b.T), "debian", "image.tar.zst"))
	if err != nil {
		b.T.Fatal(err)
	}
	environment := "NEREID_TEST_POOL=zones NEREID_TEST_IMAGE=" + b.Carry(b.m, "debian.tar.zst", string(image))
	program := b.Carry(b.m, "storage.test", labtest.TestProgram(b.T, "nereid/agent/storage"))
	ctx, cancel := context.WithTimeout(b.T.Context(), 30*time.Minute)
	defer cancel()
	out, err := b.m.Shell(ctx, "cd /tmp && "+environment+" "+program+" -test.run '^TestBenchImport$' -test.v -test.timeout 30m 2>&1")
	if err != nil {
		b.T.Fatalf("%v: %s", err, out)
	}
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "image ") {
			fmt.Print(line)
		}
	}
}
