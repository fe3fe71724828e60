package zone

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nereid/agent/machine/mdata"
	"nereid/api"
)

// tree makes a root file system: contents that begin with "-> " are links.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		at := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, link := strings.CutPrefix(text, "-> "); link {
			err = os.Symlink(to, at)
		} else {
			err = os.WriteFile(at, []byte(text), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestFindInit: an image's init is found behind its links, which lead nowhere but into
// the image, and each is shut down by its own signal.
func TestFindInit(t *testing.T) {
	for _, tt := range []struct {
		what         string
		files        map[string]string
		path, signal string
	}{
		{"systemd", map[string]string{"usr/lib/systemd/systemd": "x", "sbin/init": "-> /usr/lib/systemd/systemd"}, "/usr/lib/systemd/systemd", "SIGRTMIN+3"},
		{"systemd behind usr-merge", map[string]string{"usr/x/systemd/systemd": "x", "lib": "-> usr/x"}, "/lib/systemd/systemd", "SIGRTMIN+3"},
		{"busybox", map[string]string{"bin/busybox": "x", "sbin/init": "-> ../bin/busybox"}, "/sbin/init", "SIGUSR2"},
		{"busybox by an absolute link", map[string]string{"bin/busybox": "x", "sbin/init": "-> /bin/busybox"}, "/sbin/init", "SIGUSR2"},
		{"sysvinit", map[string]string{"sbin/init": "x"}, "/sbin/init", "SIGRTMIN+4"},
		{"runit", map[string]string{"usr/bin/runit-init": "x", "sbin/init": "-> /usr/bin/runit-init"}, "/sbin/init", "SIGCONT"},
		{"a way out that leads in", map[string]string{"bin/busybox": "x", "sbin/init": "-> ../../../../../bin/busybox"}, "/sbin/init", "SIGUSR2"},
		{"nothing", map[string]string{"bin/sh": "x"}, "", ""},
		{"a loop", map[string]string{"sbin/init": "-> init"}, "", ""},
		{"a link to the server's", map[string]string{"sbin/init": "-> /usr/bin/env"}, "", ""},
	} {
		path, real, err := FindInit(tree(t, tt.files))
		if tt.path == "" {
			if !errors.Is(err, errNoInit) {
				t.Errorf("%s: %s, %v", tt.what, path, err)
			}
			continue
		}
		if err != nil || path != tt.path || StopSignal(real) != tt.signal {
			t.Errorf("%s: %s, which is %s, stopped by %s, %v", tt.what, path, real, StopSignal(real), err)
		}
	}
}

// TestWrite: a zone has its names, resolvers and keys; a file that its customer wrote
// stays, and one of Nereid's is written again; a link that leads out is replaced.
func TestWrite(t *testing.T) {
	in := Inside{Hostname: "web", Domain: "example.com", Resolvers: []string{"10.0.0.1", "fd00::1"}, Keys: "ssh-ed25519 AAAA a\n",
		NICs: []api.InstanceNIC{{Interface: "net0", Addresses: []api.PortAddress{{Address: "10.0.0.9/24"}}},
			{Interface: "net1", Primary: true, Addresses: []api.PortAddress{{Address: "10.1.0.9/24"}, {Address: "fd00::9/64"}}}}}
	root := tree(t, map[string]string{"etc/hosts": "127.0.0.1 localhost\n", "etc/resolv.conf": "-> ../run/nowhere/resolv.conf", "etc/hostname": "image\n"})
	read := func(path string) string {
		b, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	if err := in.write(root, true); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"etc/hostname":              "web\n",
		"etc/hosts":                 mark + "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n10.1.0.9 web.example.com web\nfd00::9 web.example.com web\n",
		"etc/resolv.conf":           mark + "search example.com\nnameserver 10.0.0.1\nnameserver fd00::1\n",
		"root/.ssh/authorized_keys": mark + "ssh-ed25519 AAAA a\n",
	}
	for path, text := range want {
		if d := cmp.Diff(text, read(path)); d != "" {
			t.Errorf("%s: %s", path, d)
		}
	}
	if info, err := os.Stat(filepath.Join(root, "root/.ssh/authorized_keys")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("authorized_keys: %v, %v", info, err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/hosts"), []byte("mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	in.Hostname, in.Resolvers = "web2", []string{"10.0.0.2"}
	if err := in.write(root, false); err != nil {
		t.Fatal(err)
	}
	if read("etc/hosts") != "mine\n" || read("etc/hostname") != "web2\n" || !strings.Contains(read("etc/resolv.conf"), "10.0.0.2") {
		t.Errorf("the second time: %q %q %q", read("etc/hosts"), read("etc/hostname"), read("etc/resolv.conf"))
	}
}

// TestUser: users and groups are found as an image names them.
func TestUser(t *testing.T) {
	root := tree(t, map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/srv/app:/bin/sh\nbad:x:y:z:::\n",
		"etc/group":  "root:x:0:\nwww:x:33:app,root\nwheel:x:10:root\n",
	})
	for user, want := range map[string]string{
		"": "0 0 [0 33 10] /root", "0": "0 0 [0 33 10] /root", "app": "1000 1001 [1001 33] /srv/app", "1000": "1000 1001 [1001 33] /srv/app",
		"app:www": "1000 33 [33] /srv/app", "app:77": "1000 77 [77] /srv/app", "4711": "4711 0 [0] /", "4711:12": "4711 12 [12] /",
		"nobody": "error", "app:nobody": "error", "bad": "error",
	} {
		w, err := find(root, user)
		got := strings.TrimSpace(strings.Join([]string{itoa(w.uid), itoa(w.gid), cmpList(w.groups), w.home}, " "))
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %s, %v; want %s", user, got, err, want)
		}
	}
}

func itoa(n uint32) string { return strings.TrimSpace(strings.Trim(cmpList([]uint32{n}), "[]")) }

func cmpList(list []uint32) string {
	var b strings.Builder
	b.WriteByte('[')
	for i, n := range list {
		if i > 0 {
			b.WriteByte(' ')
		}
		var digits []byte
		for ok := true; ok; ok = n > 0 {
			digits = append(digits, byte('0'+n%10))
			n /= 10
		}
		slices.Reverse(digits)
		b.Write(digits)
	}
	b.WriteByte(']')
	return b.String()
}

// TestProgram: a program has the image's environment over that of systemd-nspawn, and is
// found in its PATH.
func TestProgram(t *testing.T) {
	root := tree(t, map[string]string{"opt/bin/run": "x"})
	run := api.ImageRun{Env: []string{"PATH=" + root + "/opt/bin:/nowhere", "A=b=c", "broken"}}
	env := environment([]string{"container=systemd-nspawn", "HOME=/root", "A=x"}, run, "/srv")
	for _, want := range []string{"container=systemd-nspawn", "HOME=/root", "A=b=c"} {
		if !slices.Contains(env, want) {
			t.Errorf("%q lacks %s", env, want)
		}
	}
	if p, err := lookup("run", env, "/"); err != nil || p != root+"/opt/bin/run" {
		t.Errorf("%s, %v", p, err)
	}
	if p, err := lookup("./run", env, "/srv"); err != nil || p != "/srv/run" {
		t.Errorf("%s, %v", p, err)
	}
	if _, err := lookup("none", env, "/"); err == nil {
		t.Error("a program that is not there is found")
	}
}

// TestLeave: what is left is read again, and what is for the zone is readable there,
// whatever the agent's umask.
func TestLeave(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	h := Host{UUID: "a", Dataset: "zones/a", Base: 524288, Hostname: "web", NICs: []NIC{{"02:00:00:00:00:01", "net0", 1400}}, Done: []string{"r"}}
	var mounted os.FileInfo // a program is, over it, while the zone runs
	for range 2 {
		if err := Leave(dir, h, Inside{Hostname: "web"}, mdata.Guest{}); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, insideDir, initFile))
		if err != nil || mounted != nil && !os.SameFile(mounted, info) {
			t.Errorf("the file that the program is mounted over is another one: %v", err)
		}
		mounted = info
	}
	got, err := Read(dir)
	if d := cmp.Diff(h, got); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}
	for path, mode := range map[string]os.FileMode{"": 0o755, "in": 0o755, "in/zone.json": 0o600, "metadata.json": 0o600, "in/init": 0o755, "host.json": 0o600} {
		if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "in/zone.json")); err != nil || os.Geteuid() == 0 && info.Sys().(*syscall.Stat_t).Uid != h.Base {
		t.Errorf("in/zone.json is not the zone's root's: %+v, %v", info, err)
	}
	if Started(dir) || Unmark(dir) != nil || Reason(dir) != "" {
		t.Error("it did not start yet")
	}
}

// TestBegin: a zone starts with what was left for it then, and with those of its NICs that
// are there; what is left later is not set in it until it is noted to be.
func TestBegin(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	inside := func(macs ...string) (in Inside) {
		for _, m := range macs {
			in.NICs = append(in.NICs, api.InstanceNIC{MAC: m})
		}
		return in
	}
	first, later := inside("a", "b", "c"), inside("a", "d")
	h := Host{UUID: "a", Base: 524288, NICs: []NIC{{MAC: "a"}, {MAC: "b"}, {MAC: "d"}}} // c is not yet there to be given
	for _, tt := range []struct{ in, now Inside }{{first, inside("a")}, {later, inside("a", "d")}} {
		if err := Leave(dir, h, tt.in, mdata.Guest{}); err != nil {
			t.Fatal(err)
		}
		given, err := begin(dir, h, func(n NIC) bool { return n.MAC != "b" })
		if err != nil || len(given) != len(tt.now.NICs) {
			t.Errorf("given %v, %v", given, err)
		}
		if err := Leave(dir, h, later, mdata.Guest{}); err != nil {
			t.Fatal(err)
		}
		if now, err := Now(dir); err != nil || cmp.Diff(tt.now, now) != "" {
			t.Errorf("%+v, %v", now, err)
		}
	}
}

// TestArguments: every barrier that systemd-nspawn is asked for is asked for.
func TestArguments(t *testing.T) {
	args := Arguments(Host{UUID: "a", Base: 524288, Hostname: "web", NICs: []NIC{{"02:00:00:00:00:0A", "net0", 1400}}}, "/d", "/r", "/dev/pts/7", "SIGTERM")
	if slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--network-interface") }) {
		t.Errorf("systemd-nspawn is given NICs: %q", args)
	}
	for _, want := range []string{
		"--keep-unit", "--register=yes", "--settings=no", "--private-network", "--link-journal=no", "--console=read-only",
		"--private-users=524288:65536", "--private-users-ownership=map", "--machine=a", "--directory=/r", "--kill-signal=SIGTERM",
		"--drop-capability=CAP_MKNOD,CAP_AUDIT_CONTROL,CAP_AUDIT_WRITE",
		"--system-call-filter=~io_uring_setup io_uring_enter io_uring_register userfaultfd", "--bind-ro=/d/in:/run/nereid", "--bind=/dev/pts/7:/dev/ttyS1",
	} {
		if !slices.Contains(args, want) {
			t.Errorf("%q lacks %s", args, want)
		}
	}
	if args[len(args)-1] != "/run/nereid/init" {
		t.Errorf("the first process is %s", args[len(args)-1])
	}
}
