//go:build vm

package instance

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"nereid/integration/lab"
	"nereid/integration/lab/labtest"
)

// Limits of the walled zones.
const (
	walledMemory    = 96 // MiB
	walledQuota     = 96 // MiB
	walledProcesses = 100
)

// TestVMBarrier is root in a zone and tries to get at its server and at other zones: by
// devices, mounts, files, system calls, modules and frames, as a child of the zone's
// first process, as a program that was entered, and as one of 32 bits; then by using up
// all that a zone may use. Afterwards the server is as it was, and can still be given all
// that needs a module.
func TestVMBarrier(t *testing.T) {
	o := operator{labtest.Standard(t)}
	img := o.prepare()
	o.nereid("package", "create", "walled", "--memory-mib", fmt.Sprint(walledMemory), "--vcpus", "1", "--quota-mib", fmt.Sprint(walledQuota),
		"--processes", fmt.Sprint(walledProcesses))
	o.Undo("package", "disable", "walled")
	m1, m2 := o.Machines()[0], o.Machines()[1]
	zones := o.create(img, "walled", map[string]*lab.Machine{"in": m1, "beside": m1, "afar": m2})
	in, beside, afar := zones["in"], zones["beside"], zones["afar"]
	for _, arch := range []string{"amd64", "386"} {
		o.nereid("instance", "push", program(t, "attempts", arch), "in:/bin/attempts-"+arch, "--mode", "0755")
	}
	for _, z := range []zone{beside, afar} {
		o.nereid("instance", "push", program(t, "attempts", "amd64"), z.Name+":/bin/attempts-amd64", "--mode", "0755")
	}

	before := o.state(in, beside)
	own := "zones/" + in.UUID
	try := " try zones zones/config " + own + " zones/" + beside.UUID + " zones/" + img
	t.Run("as a child of its init", func(t *testing.T) {
		o := o.of(t)
		o.inside(in, `printf '%s\n' '[ -e /tried ] || { /bin/attempts-amd64`+try+` > /trying 2>&1; mv /trying /tried; }; exec sleep 86400' > /etc/attempt
echo '::respawn:/bin/sh /etc/attempt' >> /etc/inittab; kill -HUP 1`)
		refused(t, o.inside(in, "until [ -e /tried ]; do sleep 0.2; done; cat /tried"), 300)
	})
	t.Run("entered", func(t *testing.T) { refused(t, o.of(t).inside(in, "/bin/attempts-amd64"+try), 300) })
	t.Run("of 32 bits", func(t *testing.T) { refused(t, o.of(t).inside(in, "/bin/attempts-386"+try), 300) })
	t.Run("frames", func(t *testing.T) { o.of(t).frames(in, beside, afar); o.of(t).frames(in, afar, beside) })
	t.Run("a setuid file", func(t *testing.T) {
		o := o.of(t)
		o.inside(in, "cp /bin/busybox /suid; chmod 4755 /suid")
		out := o.Shell(m1, "setpriv --reuid 65534 --regid 65534 --clear-groups /proc/"+leader(o, in)+"/root/suid id -u 2>&1 || true")
		if strings.TrimSpace(out) == "0" {
			t.Error("a setuid file of a zone makes root of a user of the server's")
		}
	})
	t.Run("ranges of users", func(t *testing.T) {
		o := o.of(t)
		a, b := o.Shell(m1, "cat /proc/"+leader(o, in)+"/uid_map"), o.Shell(m1, "cat /proc/"+leader(o, beside)+"/uid_map")
		if a == b || !strings.HasSuffix(strings.TrimSpace(a), "65536") {
			t.Errorf("users of two zones: %s, %s", a, b)
		}
	})
	t.Run("processes", func(t *testing.T) { o.of(t).bomb(in, beside) })
	t.Run("memory", func(t *testing.T) { o.of(t).hog(in) })
	t.Run("disk", func(t *testing.T) { o.of(t).fill(in, beside) })
	t.Run("console", func(t *testing.T) { o.of(t).flood(in) })

	if after := o.state(in, beside); after != before {
		t.Errorf("the server was\n%s\nand is\n%s", before, after)
	}
	t.Run("what needs a module", func(t *testing.T) {
		o.of(t).Shell(m1, "echo "+base64.StdEncoding.EncodeToString([]byte(needsModules))+" | base64 -d | bash -e 2>&1")
	})
}

// program builds a program of this folder for a machine.
func program(t *testing.T, name, arch string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w", "-o", path, "./"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return path
}

// refused checks what attempts printed.
func refused(t *testing.T, out string, want int) {
	t.Helper()
	n := 0
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		switch f := strings.SplitN(line, "\t", 3); {
		case strings.HasPrefix(line, "# "):
			t.Log(line)
		case len(f) == 3 && f[1] == "refused":
			n++
		case line != "end of attempts":
			t.Error(line)
		}
	}
	if n < want || !strings.Contains(out, "end of attempts") {
		t.Errorf("%d attempts were refused: want %d, and all made", n, want)
	}
	t.Logf("%d attempts were refused", n)
}

// state is what zones must not change of their server, and their own limits.
func (o operator) state(zones ...zone) string {
	o.T.Helper()
	line := `cat /proc/sys/kernel/core_pattern /proc/sys/kernel/panic /proc/sys/kernel/modprobe /proc/sys/kernel/sysrq /proc/sys/kernel/kptr_restrict
cat /sys/module/zfs/parameters/zfs_txg_timeout /sys/kernel/mm/transparent_hugepage/enabled /sys/block/vda/queue/read_ahead_kb; hostname
lsmod | awk '{print $1}' | sort | tr '\n' ' '; echo; ls /lib/modules; systemctl list-units --plain --no-legend --failed; md5sum /usr/lib/nereid/nereid-zone`
	for _, z := range zones {
		line += "\ncat " + cgroup(z) + "/{memory.max,memory.swap.max,pids.max,cpu.max}"
	}
	return o.Shell(zones[0].on, line)
}

// cgroup is a zone's, on its server.
func cgroup(z zone) string {
	return "/sys/fs/cgroup/machine.slice/nereid-zone-" + z.UUID + ".service"
}

// frames has a zone send what it must not to another, pretending to be a third; to gets
// its honest frames and none of those, and so does nobody else.
func (o operator) frames(from, to, other zone) {
	t := o.T
	t.Helper()
	type ear struct {
		cmd *exec.Cmd
		out *bufio.Reader
	}
	ears := map[string]ear{}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for _, z := range []zone{to, other} {
		cmd := o.command(ctx, "instance", "exec", z.Name, "--", "/bin/attempts-amd64", "listen", "net0")
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		e := ear{cmd, bufio.NewReader(out)}
		if line, err := e.out.ReadString('\n'); line != "listening\n" {
			t.Fatalf("%s listens: %q, %v", z.Name, line, err)
		}
		ears[z.Name] = e
	}
	sent := o.inside(from, fmt.Sprintf("/bin/attempts-amd64 send net0 %s %s %s %s", to.NICs[0].MAC, ip(to), other.NICs[0].MAC, ip(other)))
	if n := strings.Count(sent, "sent\t"); n < 20 {
		t.Errorf("%d kinds of frames were sent:\n%s", n, sent)
	}
	came := func(name string) (all []string) {
		for {
			line, err := ears[name].out.ReadString('\n')
			if what, is := strings.CutPrefix(line, "came\t"); is {
				all = append(all, strings.TrimSpace(what))
			}
			if err != nil || slices.Contains(all, "end") {
				return all
			}
		}
	}
	if got := came(to.Name); !slices.Equal(got, []string{"begin", "end"}) {
		t.Errorf("from %s to %s came %q: want only what is honest", from.Name, to.Name, got)
	}
	if err := ears[to.Name].cmd.Wait(); err != nil {
		t.Errorf("%s listens: %v", to.Name, err)
	}
	// The third hears the end of it by an honest frame of its own.
	o.inside(from, fmt.Sprintf("/bin/attempts-amd64 end net0 %s %s", other.NICs[0].MAC, ip(other)))
	if got := came(other.Name); !slices.Equal(got, []string{"end"}) {
		t.Errorf("what %s sent to %s came to %s: %q", from.Name, to.Name, other.Name, got)
	}
	if err := ears[other.Name].cmd.Wait(); err != nil {
		t.Errorf("%s listens: %v", other.Name, err)
	}
}

func ip(z zone) string {
	address, _, _ := strings.Cut(z.NICs[0].Addresses[0].Address, "/")
	return address
}

// bomb has a zone make processes for ever: it gets no more than it may have, its server's
// agent answers, and so does the zone beside it.
func (o operator) bomb(in, beside zone) {
	t := o.T
	o.inside(in, `printf '%s\n' 'while :; do /bin/sh /bomb & done' > /bomb; for i in 1 2 3; do setsid sh /bomb > /dev/null 2>&1 & done`)
	o.until(in.on, `grep -q "max [1-9]" `+cgroup(in)+`/pids.events`)
	begun := time.Now()
	if out := o.inside(beside, "echo here"); out != "here\n" {
		t.Errorf("the zone beside a fork bomb says %q", out)
	}
	t.Logf("exec beside a fork bomb: %v", time.Since(begun))
	cmd := o.command(t.Context(), "instance", "exec", in.Name, "--", "/bin/true")
	out, err := cmd.CombinedOutput() // it may find no room for a process, and says so
	t.Logf("exec in a fork bomb: %v %s", err, out)
	if n, err := strconv.Atoi(strings.TrimSpace(o.Shell(in.on, "cat "+cgroup(in)+"/pids.peak"))); err != nil || n > walledProcesses {
		t.Errorf("%d processes at once, %v: want %d", n, err, walledProcesses)
	}
	o.nereid("instance", "stop", in.Name, "--force", "--wait")
	o.nereid("instance", "start", in.Name, "--wait")
}

// hog has a zone take more memory than it may: what took it is killed, and the zone runs
// on. What fills its memory with files is killed too, and a restart makes room again.
func (o operator) hog(in zone) {
	t := o.T
	first := leader(o, in)
	out, err := o.command(t.Context(), "instance", "exec", in.Name, "--", "/bin/attempts-amd64", "hog", "300").CombinedOutput()
	if err == nil || strings.Contains(string(out), "has 300") {
		t.Errorf("a program took 300 MiB of %d: %s", walledMemory, out)
	}
	if now := leader(o, in); now != first {
		t.Error("the zone did not outlive a program that took too much memory")
	}
	o.until(in.on, `grep -q "oom_kill [1-9]" `+cgroup(in)+`/memory.events`)
	// Files in memory are not killed: they leave room for nothing until a restart.
	out, err = o.command(t.Context(), "instance", "exec", in.Name, "--", "/bin/dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=300").CombinedOutput()
	t.Logf("300 MiB in /dev/shm: %v: %s", err, out)
	if err == nil {
		t.Error("300 MiB fit into /dev/shm")
	}
	o.nereid("instance", "reboot", in.Name, "--force", "--wait")
	o.inside(in, "echo lives")
}

// fill has a zone write until nothing fits any more: that is its own disk alone. It
// starts with it so, too.
func (o operator) fill(in, beside zone) {
	t := o.T
	out, err := o.command(t.Context(), "instance", "exec", in.Name, "--", "/bin/sh", "-c", "cat /dev/urandom > /fill").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "quota") && !strings.Contains(string(out), "space") {
		t.Errorf("writing without end: %v, %s", err, out)
	}
	used, err := strconv.Atoi(strings.TrimSpace(o.Shell(in.on, "zfs list -Hp -o used zones/"+in.UUID)))
	if err != nil || used > (walledQuota+2)<<20 {
		t.Errorf("its dataset uses %d bytes, %v", used, err)
	}
	o.inside(beside, "dd if=/dev/urandom of=/some bs=1M count=4 && sync && rm /some")
	o.nereid("instance", "reboot", in.Name, "--wait")
	o.inside(in, "echo lives")
}

// flood has a zone print without end: a bounded rest of it is kept, the server's journal
// has none of it, and who keeps it may be killed.
func (o operator) flood(in zone) {
	t := o.T
	first := leader(o, in)
	lines := func() string {
		return o.Shell(in.on, "journalctl -q --no-pager -o cat | grep -c 'a flood of it' || true")
	}
	o.inside(in, "yes a flood of it | head -c 3000000 > /dev/console; echo the end of it > /dev/console")
	o.Shell(in.on, "systemctl kill -s KILL nereid-consoles")
	o.inside(in, "yes a flood of it | head -c 1000000 > /dev/console; echo the last of it > /dev/console")
	o.until(in.on, "grep -q \"the last of it\" /run/nereid/consoles/to/"+in.UUID+".log")
	size, err := strconv.Atoi(strings.TrimSpace(o.Shell(in.on, "cat /run/nereid/consoles/to/"+in.UUID+".log* | wc -c")))
	if err != nil || size > 5<<19 {
		t.Errorf("%d bytes of output are kept, %v", size, err)
	}
	if n := lines(); n != "0" {
		t.Errorf("the server's journal has %s lines of what a zone printed", n)
	}
	if out := o.nereid("instance", "logs", in.Name); !strings.HasSuffix(strings.TrimSpace(out), "the last of it") {
		t.Errorf("its log ends with %q", out[max(0, len(out)-100):])
	}
	if now := leader(o, in); now != first {
		t.Error("the zone did not outlive a flood, and the end of who keeps it")
	}
}

// needsModules makes what NIC tags, bonds, VLANs, VNIs, rules, NAT, routers and virtual
// machines need of the kernel, and takes it away.
const needsModules = `test -z "$(tr -d '\n' < /proc/sys/kernel/modprobe)"
trap 'ip netns del mods; ip link del mods3 2>/dev/null || true' EXIT
ip netns add mods
for l in "bond mode 802.3ad" "bridge vlan_filtering 1" "vxlan id 77 dstport 4790 nolearning" "dummy" "veth peer name mods1" "ifb"; do ip -n mods link add mods0 type $l; ip -n mods link del mods0; done
ip -n mods link add mods0 type dummy
ip -n mods link add link mods0 name mods1 type vlan id 7
ip -n mods link add link mods0 name mods2 type macvlan mode bridge
ip netns exec mods nft -f - <<'N'
table inet a {
 set s { type ipv4_addr; flags interval; }
 chain c {
  type filter hook forward priority 0
  ct state established accept
  ip saddr @s drop
  limit rate 5/second accept
  ct count over 5 drop
  meta l4proto tcp reject with tcp reset
  log prefix "x"
  quota over 5 mbytes drop
  fib daddr type local accept
 }
 chain n {
  type nat hook postrouting priority 100
  masquerade
 }
 chain d {
  type nat hook prerouting priority -100
  dnat ip to numgen inc mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }
  tcp dport 80 redirect to :80
 }
}
table bridge b {
 chain c {
  type filter hook prerouting priority 0
  ct state established accept
  reject with icmp type host-unreachable
 }
}
table netdev e {
 chain c {
  type filter hook ingress device "mods0" priority 0
  ether type arp accept
 }
}
N
ip tuntap add mods3 mode tap
test -c /dev/vhost-net
test -c /dev/net/tun
test -c /dev/fuse
tc qdisc add dev lo ingress
tc qdisc del dev lo ingress`
