package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"nereid/api"
)

const goodBoot = `{"boot_id":"abc","token":"s3cret","api":"https://10.99.99.7:8443","ca_sha256":"` +
	`0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","boot_server":"http://10.99.99.7",` +
	`"platform":"20261122T101500Z","hostname":"cn","network":{"mac":"52:54:00:00:00:01","address":"10.99.99.100/24"},"time":"2026-11-22T10:15:00Z"}`

func TestReadBoot(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadBoot(dir); !errors.Is(err, ErrNotBooted) || !strings.Contains(err.Error(), "boot it over the network") {
		t.Errorf("missing: %v", err)
	}
	write := func(s string) {
		if err := os.WriteFile(filepath.Join(dir, bootFile), []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(goodBoot)
	c, err := ReadBoot(dir)
	if err != nil || c.Token != "s3cret" || c.Network.Address.String() != "10.99.99.100/24" {
		t.Errorf("%+v, %v", c, err)
	}
	for name, bad := range map[string]string{
		"empty":       "",
		"cut":         goodBoot[:100],
		"list":        "[]",
		"token type":  strings.Replace(goodBoot, `"s3cret"`, `["s3cret"]`, 1),
		"no id":       strings.Replace(goodBoot, `"abc"`, `""`, 1),
		"http":        strings.Replace(goodBoot, `"https://`, `"http://`, 1),
		"user in URL": strings.Replace(goodBoot, `"https://`, `"https://root:s3cret@`, 1),
		"short pin":   strings.Replace(goodBoot, "0123456789abcdef", "", 1),
		"bad address": strings.Replace(goodBoot, "10.99.99.100/24", "s3cret", 1),
	} {
		write(bad)
		_, err := ReadBoot(dir)
		if err == nil || errors.Is(err, ErrNotBooted) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestUsage(t *testing.T) {
	root := t.TempDir()
	for name, s := range map[string]string{
		"uptime":                      "1234.56 2000.00\n",
		"loadavg":                     "0.42 0.30 0.20 1/100 4711\n",
		"meminfo":                     "MemTotal:        2000000 kB\nMemFree:  5 kB\nMemAvailable:    1000000 kB\n",
		"self/statm":                  "3000 2000 1000 500 0 900 0\n",
		"self/stat":                   "42 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 9 0 100\n",
		"spl/kstat/zfs/zones/state":   "ONLINE\n",
		"spl/kstat/zfs/backup/state":  "DEGRADED\n",
		"spl/kstat/zfs/arcstats/none": "",
	} {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := api.Usage{
		UptimeSeconds: 1234.56, Load1: 0.42, MemoryFreeBytes: 1000000 << 10,
		AgentRSSBytes: 2000 * int64(os.Getpagesize()), AgentCPUSeconds: 2,
	}
	if got := usage(root); got != want {
		t.Errorf("usage %+v, want %+v", got, want)
	}
	if got := poolStates(root); got != "backup=DEGRADED zones=ONLINE " {
		t.Errorf("pools %q", got)
	}
	if got := usage(t.TempDir()); got != (api.Usage{}) {
		t.Errorf("without /proc: %+v", got)
	}
	if got := usage("/proc"); got.AgentRSSBytes < 1<<20 || got.UptimeSeconds == 0 || got.MemoryFreeBytes == 0 {
		t.Errorf("of this process: %+v", got)
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "f")
	if err := os.WriteFile(p, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := writeFile(p, []byte("new")); err != nil {
			t.Fatal(err)
		}
	}
	b, err := readFile(p)
	if err != nil || string(b) != "new" {
		t.Errorf("%q, %v", b, err)
	}
	if st, err := os.Stat(p); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if l, err := os.ReadDir(dir); err != nil || len(l) != 1 {
		t.Errorf("left behind: %v %v", l, err)
	}
	if err := writeFile(filepath.Join(dir, "none", "f"), nil); err == nil {
		t.Error("no error without a folder")
	}
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readFile(big); err == nil {
		t.Error("read a file without bound")
	}
}

// A spec is read back whatever its size.
func TestLargeSpec(t *testing.T) {
	spec := api.Spec{Revision: "r1", Network: &api.NetworkSpec{}}
	var members []string
	for i := range 400_000 {
		members = append(members, fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
	}
	spec.Network.Firewall.Sets = []api.AddressSet{{Name: "all", Members: members}}
	a := &Agent{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Config: newWorld()}
	path := filepath.Join(a.Dir, specFile)
	if err := writeJSON(path, spec); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Size() <= maxFile {
		t.Fatalf("the file is too small to tell: %v, %v", st, err)
	}
	if got, ok := a.lastSpec(t.Context()); !ok || len(got.Network.Firewall.Sets[0].Members) != len(members) {
		t.Errorf("read back: %v, revision %q", ok, got.Revision)
	}
	if err := writeJSON(filepath.Join(a.Dir, statusFile), Status{Report: api.Report{Problems: members}}); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadStatus(a.Dir); err != nil || len(got.Report.Problems) != len(members) {
		t.Errorf("status: %v", err)
	}
}

func TestBackoff(t *testing.T) {
	b := backoff{min: 500 * time.Millisecond, max: 30 * time.Second}
	for i := range 100 {
		full := min(30*time.Second, 500*time.Millisecond<<min(i, 10))
		if d := b.next(); d < full/2 || d > full {
			t.Errorf("%d: %s, want %s to %s", i, d, full/2, full)
		}
	}
	b.reset()
	if d := b.next(); d > 500*time.Millisecond {
		t.Errorf("after reset: %s", d)
	}
}

func TestMailboxKeepsTheNewest(t *testing.T) {
	m := newMailbox()
	for _, r := range []string{"1", "2", "3"} {
		m.put(api.Spec{Revision: r})
	}
	if s := <-m; s.Revision != "3" {
		t.Errorf("took %q", s.Revision)
	}
}

func TestPlan(t *testing.T) {
	pool := []api.Pool{{Name: "zones", GUID: "77", System: true, SetupID: "s1"}}
	done := observed{bootID: "b1", hostname: "cn01", pools: pool, complete: "s1", keyKept: true, specKept: "r1"}
	setup := &api.SetupSpec{ID: "s1", Pool: "zones"}
	for _, tt := range []struct {
		name    string
		spec    api.Spec
		o       observed
		steps   []stepKind
		refused []stepKind
	}{
		{name: "nothing wanted, nothing there"},
		{name: "nothing wanted, all there", o: done},
		{name: "as it should be", spec: api.Spec{Revision: "r1", Hostname: "cn01", Setup: setup}, o: done},
		{name: "new", spec: api.Spec{Revision: "r1", Hostname: "cn01", Setup: setup}, o: observed{bootID: "b1", hostname: "localhost"}, steps: []stepKind{stepHostname, stepSetup}},
		{name: "interrupted", spec: api.Spec{Revision: "r1", Setup: setup}, o: observed{pools: pool}, steps: []stepKind{stepSetup}},
		{name: "key lost", spec: api.Spec{Revision: "r2", Setup: setup}, o: observed{pools: pool, complete: "s1"}, steps: []stepKind{stepKey, stepSpec}},
		{name: "another key", spec: api.Spec{Revision: "r1"}, o: observed{pools: pool, complete: "s1", keyOther: true, specKept: "r1"}, refused: []stepKind{stepKey}},
		{name: "another setup's pool", spec: api.Spec{Setup: &api.SetupSpec{ID: "s2"}}, o: observed{pools: pool}, refused: []stepKind{stepSetup}},
		{name: "set up already", spec: api.Spec{Setup: &api.SetupSpec{ID: "s2"}}, o: done, refused: []stepKind{stepSetup}},
		{name: "setup without id", spec: api.Spec{Setup: &api.SetupSpec{}}, refused: []stepKind{stepSetup}},
		{name: "not a hostname", spec: api.Spec{Hostname: "-rf /"}, o: done, refused: []stepKind{stepHostname}},
		{name: "too long a hostname", spec: api.Spec{Hostname: strings.Repeat("a.", 40) + "a"}, o: done, refused: []stepKind{stepHostname}},
		{name: "reboot", spec: api.Spec{Hostname: "cn02", Setup: setup, Power: &api.PowerSpec{ID: "p", Action: "reboot", BootID: "b1"}}, o: done, steps: []stepKind{stepPower}},
		{name: "reboot of another boot", spec: api.Spec{Revision: "r1", Power: &api.PowerSpec{ID: "p", Action: "reboot", BootID: "b0"}}, o: done},
		{name: "reset", spec: api.Spec{Setup: setup, Power: &api.PowerSpec{ID: "p", Action: "reset", BootID: "b1", PoolGUID: "77"}}, o: done, steps: []stepKind{stepReset, stepPower}},
		{name: "reset of another pool", spec: api.Spec{Revision: "r1", Power: &api.PowerSpec{ID: "p", Action: "reset", BootID: "b1", PoolGUID: "78"}}, o: done, refused: []stepKind{stepReset}},
		{name: "reset without guid", spec: api.Spec{Revision: "r1", Power: &api.PowerSpec{ID: "p", Action: "reset", BootID: "b1"}}, o: done, refused: []stepKind{stepReset}},
		{name: "reset that failed", spec: api.Spec{Hostname: "x", Setup: setup, Power: &api.PowerSpec{ID: "p", Action: "reset", BootID: "b1", PoolGUID: "77"}}, o: observed{bootID: "b1", refused: "p", why: "busy"}, refused: []stepKind{stepReset}},
		{name: "unknown power request", spec: api.Spec{Revision: "r1", Power: &api.PowerSpec{ID: "p", Action: "halt", BootID: "b1"}}, o: done, refused: []stepKind{stepPower}},
		{name: "going down", spec: api.Spec{Setup: setup, Hostname: "x"}, o: observed{taken: &api.PowerSpec{ID: "p", Action: "reset"}}, steps: []stepKind{stepPower}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := makePlan(tt.spec, tt.o)
			if !reflect.DeepEqual(p.steps, tt.steps) {
				t.Errorf("steps %q, want %q", p.steps, tt.steps)
			}
			if len(p.refused) != len(tt.refused) {
				t.Errorf("refused %q, want %q", p.refused, tt.refused)
			}
			for _, k := range tt.refused {
				if p.refused[k] == "" {
					t.Errorf("%s is not refused", k)
				}
			}
		})
	}
}

func FuzzParseBoot(f *testing.F) {
	f.Add([]byte(goodBoot))
	f.Add([]byte(`{"api":"https://[::1]:8443"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseBoot(b)
		if err == nil && (c.BootID == "" || len(c.CASHA256) != 64 || !strings.HasPrefix(strings.ToLower(c.API), "https://")) {
			t.Fatalf("accepted %+v", c)
		}
	})
}

func FuzzParseStub(f *testing.F) {
	f.Add([]byte(`{"stub_s":1.5,"root_s":4.25,"switch_root_s":4.5}`))
	f.Add([]byte(`{"stub_s":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseStub(b); err == nil && (s.Stub < 0 || s.SwitchRoot > 86400) {
			t.Fatalf("accepted %+v", s)
		}
	})
}

// FuzzForeign feeds everything else that reads bytes of others.
func FuzzForeign(f *testing.F) {
	f.Add([]byte(`{"code":"forbidden","detail":"no"}`))
	f.Add([]byte("MemAvailable: 99999999999999999999 kB\n"))
	f.Add([]byte("1 (x) S 1 1 1 1 1 1 1 1 1 1 -5 5"))
	f.Add([]byte("\x1b]0;title\x07 \xff\xfe"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p := parseProblem(500, "application/problem+json", b); p.Status != 500 || p.Error() == "" && len(p.Errors) == 0 && json.Valid(b) == false {
			t.Fatalf("problem %+v", p)
		}
		if memAvailable(b) < 0 || rss(b) < 0 || cpuSeconds(b) < 0 || firstFloat(b) < 0 {
			t.Fatal("less than nothing")
		}
		for _, r := range printable(string(b)) {
			if r < 0x20 || r == 0x7f || (r >= 0x80 && r < 0xa0) {
				t.Fatalf("control character %U gets through", r)
			}
		}
	})
}
