//go:build netns

package router

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"nereid/api"
)

// observed is what a server has of ours, as text.
func (l *lab) observed(s *server) string {
	l.Helper()
	w, done, err := s.open()
	if err != nil {
		l.Fatal(err)
	}
	defer done()
	st, err := w.Read(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	return st.String()
}

// TestNetNSKilled: Apply that ends after any of its steps, and is done again,
// gives the same; also when it takes everything away.
func TestNetNSKilled(t *testing.T) {
	l := newLab(t, 1)
	l.vni(100, l.servers...)
	l.vni(101, l.servers...)
	s1 := l.servers[0]
	specs := natSpecs("198.51.100.10/24", "198.51.100.1")[:1]
	l.apply(s1, specs...)
	want := l.observed(s1)
	l.apply(s1)
	if left := l.observed(s1); left != "" {
		t.Fatalf("left:\n%s", left)
	}
	count := s1.hook
	killAt := func(at int, specs ...api.RouterSpec) (ended bool) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n := 0
		s1.hook = func(st step) error {
			if st.Kind == kindSysctl { // many, and all alike
				return nil
			}
			if n++; n > at {
				cancel()
				return ctx.Err()
			}
			return nil
		}
		err := s1.Apply(ctx, specs, s1.env())
		s1.hook = count
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("killed after %d steps: %v", at, err)
		}
		return err == nil
	}
	for at := 0; ; at++ {
		ended := killAt(at, specs...)
		l.apply(s1, specs...)
		if d := cmp.Diff(want, l.observed(s1)); d != "" {
			t.Fatalf("killed after %d steps of making it:\n%s", at, d)
		}
		gone := killAt(at)
		l.apply(s1)
		if left := l.observed(s1); left != "" || spaces(s1) != "" {
			t.Fatalf("killed after %d steps of removing it:\n%s%s", at, left, spaces(s1))
		}
		if ended && gone {
			t.Logf("%d steps", at)
			break
		}
	}
}

// TestNetNSKill9 kills a process that applies, at times that differ.
func TestNetNSKill9(t *testing.T) {
	l := newLab(t, 1)
	for _, v := range []int{100, 101, 200, 201} {
		l.vni(v, l.servers...)
	}
	s1 := l.servers[0]
	specs := natSpecs("198.51.100.10/24", "198.51.100.1")
	began := time.Now()
	l.apply(s1, specs...)
	whole := time.Since(began)
	want := l.observed(s1)
	l.apply(s1)
	const rounds = 12
	for n := range rounds {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestNetNSApplyForKill9$")
		cmd.Env = append(os.Environ(), applyEnv+"="+s1.name)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// A part of the time that it takes: no event to wait for, as none shall be
		// special.
		timer := time.AfterFunc(whole*time.Duration(n+1)/rounds, func() { cmd.Process.Signal(unix.SIGKILL) })
		_ = cmd.Wait()
		timer.Stop()
		half := strings.Count(l.observed(s1), "\n")
		l.apply(s1, specs...)
		if d := cmp.Diff(want, l.observed(s1)); d != "" {
			t.Fatalf("killed with %d items made:\n%s", half, d)
		}
		t.Logf("killed with %d items made", half)
		l.apply(s1)
	}
}

// applyEnv names the server that a process of TestNetNSKill9 is for.
const applyEnv = "NEREID_ROUTER_APPLY"

// TestNetNSApplyForKill9 is the process that TestNetNSKill9 kills.
func TestNetNSApplyForKill9(t *testing.T) {
	name := os.Getenv(applyEnv)
	if name == "" {
		return
	}
	s := &server{name: name, number: 1, Routers: &Routers{Host: ns(name), Dir: "/run/routers/" + name}}
	if err := s.Apply(t.Context(), natSpecs("198.51.100.10/24", "198.51.100.1"), s.env()); err != nil {
		t.Fatal(err)
	}
}

// TestNetNSForeign: what others made stays; what a crash left is cleared; what was
// changed by hand is repaired.
func TestNetNSForeign(t *testing.T) {
	l := newLab(t, 1)
	for _, v := range []int{100, 101} {
		l.vni(v, l.servers...)
	}
	s1 := l.servers[0]
	specs := natSpecs("198.51.100.10/24", "198.51.100.1")[:1]
	path := func(name string) string { return filepath.Join(s1.Dir, name) }
	// Another's namespace of that name, an empty file where one was being made, and
	// interfaces of others.
	if err := makeSpace(path("nr-aaaaaaaa"), func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path("nr-external-external-0"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	ip(t, s1.name, "link add vrfeedfeedfeed type veth peer name vrforeign")
	l.apply(s1, specs...)
	if got := spaces(s1); got != "nr-aaaaaaaa nr-aaaaaaaa0 nr-external-external-0" {
		t.Errorf("namespaces: %s", got)
	}
	want := l.observed(s1)

	// By hand.
	inSpace := func(name string, args ...string) {
		t.Helper()
		if err := inside(path(name), func() error {
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				return fmt.Errorf("%v: %w %s", args, err, out)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	outer := hostName(ownerA, uint32(100), "90:b8:d0:00:0a:01")
	for what, harm := range map[string]func(){
		"rules":         func() { inSpace("nr-aaaaaaaa0", "nft", "flush", "ruleset") },
		"one rule":      func() { inSpace("nr-external-external-0", "nft", "add rule inet nereid forward accept") },
		"address":       func() { inSpace("nr-aaaaaaaa0", "ip", "addr", "del", "10.0.1.1/24", "dev", "v100-0a01") },
		"more address":  func() { inSpace("nr-aaaaaaaa0", "ip", "addr", "add", "10.0.1.2/24", "dev", "v100-0a01") },
		"route":         func() { inSpace("nr-aaaaaaaa0", "ip", "route", "flush", "proto", "0x4e") },
		"rule":          func() { inSpace("nr-external-external-0", "ip", "rule", "del", "pref", "1001") },
		"local rule":    func() { inSpace("nr-external-external-0", "ip", "rule", "add", "pref", "0", "lookup", "local") },
		"forwarding":    func() { inSpace("nr-aaaaaaaa0", "sysctl", "-qw", "net.ipv4.ip_forward=0") },
		"down":          func() { ip(t, s1.name, "link set "+outer+" down") },
		"inner down":    func() { inSpace("nr-aaaaaaaa0", "ip", "link", "set", "v100-0a01", "down") },
		"mac":           func() { inSpace("nr-aaaaaaaa0", "ip", "link", "set", "v100-0a01", "address", "02:00:00:00:00:77") },
		"no bridge":     func() { ip(t, s1.name, "link set "+outer+" nomaster") },
		"other bridge":  func() { ip(t, s1.name, "link set "+outer+" master vb101") },
		"learning":      func() { ip(t, s1.name, "link set "+outer+" type bridge_slave learning on") },
		"broadcast":     func() { ip(t, s1.name, "link set "+outer+" type bridge_slave bcast_flood off") },
		"suppress":      func() { ip(t, s1.name, "link set "+outer+" type bridge_slave neigh_suppress on") },
		"link":          func() { ip(t, s1.name, "link del "+outer) },
		"neighbour":     func() { ip(t, s1.name, "neigh del 10.0.1.1 dev vb100") },
		"its MAC":       func() { ip(t, s1.name, "neigh replace 10.0.1.1 lladdr 02:00:00:00:00:66 nud permanent dev vb100") },
		"fdb":           func() { batch(t, s1.name, "bridge", []string{"fdb del 90:b8:d0:00:0a:01 dev " + outer + " master"}) },
		"fdb elsewhere": func() { batch(t, s1.name, "bridge", []string{"fdb replace 90:b8:d0:00:0a:01 dev vx100 master static"}) },
		"mtu":           func() { ip(t, s1.name, "link set "+outer+" mtu 1300") },
		"namespace":     func() { removeSpace(path("nr-external-external-0")) },
		"left by a crash": func() {
			ip(t, s1.name, "link del "+outer)
			inSpace("nr-aaaaaaaa0", "ip", "link", "add", outer, "type", "veth", "peer", "name", "v100-0a01")
		},
	} {
		harm()
		if l.observed(s1) == want {
			t.Errorf("%s: the change is not seen", what)
		}
		l.apply(s1, specs...)
		if d := cmp.Diff(want, l.observed(s1)); d != "" {
			t.Fatalf("%s:\n%s", what, d)
		}
	}
	ip(t, s1.name, "link set vb100 mtu 1350")
	l.apply(s1, specs...)
	if mtu := strings.Count(l.observed(s1), "= 1350"); mtu != 2 {
		t.Errorf("%d interfaces have the bridge's new MTU, want both ends", mtu)
	}

	l.apply(s1)
	if got := spaces(s1); got != "nr-aaaaaaaa" {
		t.Errorf("namespaces after all is removed: %s", got)
	}
	links := run(t, "ip", "-n", s1.name, "-br", "link")
	if !strings.Contains(links, "vrfeedfeedfeed") || strings.Count(links, "vr") != 4 {
		t.Errorf("links after all is removed:\n%s", links)
	}
	if neigh := run(t, "ip", "-n", s1.name, "neigh", "show", "nud", "permanent"); neigh != "" {
		t.Errorf("neighbours after all is removed:\n%s", neigh)
	}
	if err := removeSpace(path("nr-aaaaaaaa")); err != nil {
		t.Fatal(err)
	}
}

// TestNetNSLeaks: threads and file descriptors stay as many as they were, and no
// thread stays in another namespace.
func TestNetNSLeaks(t *testing.T) {
	l := newLab(t, 1)
	l.vni(100, l.servers...)
	s1 := l.servers[0]
	specs := []api.RouterSpec{twoAccountsA100()}
	count := func(dir string) int {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	l.apply(s1, specs...)
	l.apply(s1)
	threads, fds := count("/proc/self/task"), count("/proc/self/fd")
	for range 10 {
		l.apply(s1, specs...)
		l.apply(s1)
	}
	// Failures on the way there and back.
	if err := inside("/nowhere", func() error { return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a namespace that is not there: %v", err)
	}
	if n := count("/proc/self/fd"); n > fds {
		t.Errorf("%d file descriptors, were %d", n, fds)
	}
	if n := count("/proc/self/task"); n > threads+4 { // the runtime's own come and go
		t.Errorf("%d threads, were %d", n, threads)
	}
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if at, err := os.Readlink(task); err == nil && at != home {
			t.Errorf("%s is in %s, not in %s", task, at, home)
		}
	}
	// A netlink connection to a namespace stays there.
	h, err := (&kernel{host: s1.Host, dir: s1.Dir, handles: map[string]*netlink.Handle{}}).at("")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := h.LinkByName("vb100"); err != nil {
		t.Error(err)
	}
}
