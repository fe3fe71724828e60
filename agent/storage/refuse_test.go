package storage

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nereid/api"
)

// TestSetupRefuses: what was not made here is not destroyed.
func TestSetupRefuses(t *testing.T) {
	other := func(server, pool, kind, id string) string {
		b, err := mark{Kind: kind, ID: id, Server: server, Pool: pool}.encode()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	tests := []struct {
		name string
		make func(t *testing.T, l *lab)
		want error
		text string
	}{
		{"a file system", func(t *testing.T, l *lab) { l.write(t, "vdb", 0, "XFSB") }, ErrForeignData, "an XFS file system"},
		{"unknown bytes at the end", func(t *testing.T, l *lab) { l.write(t, "vdb", 2*gib-5, "x") }, ErrForeignData, "unknown kind"},
		{"a pool", func(t *testing.T, l *lab) {
			if _, err := l.AddPool("tank", "vdb", true, nil); err != nil {
				t.Fatal(err)
			}
		}, ErrForeignData, `the ZFS pool "tank"`},
		{"another server's mark", func(t *testing.T, l *lab) {
			l.write(t, "vdb", markOffset, other("11111111-0031-3010-8050-b7c04f4e3132", "zones", markSetup, "x"))
		}, ErrForeignData, "unfinished setup of server 11111111"},
		{"our mark and another pool", func(t *testing.T, l *lab) {
			if _, err := l.AddPool("tank", "vdb", true, nil); err != nil {
				t.Fatal(err)
			}
			l.write(t, "vdb", markOffset, other(testUUID, "zones", markSetup, "x"))
		}, ErrForeignData, `the ZFS pool "tank"`},
		{"our mark and a file system", func(t *testing.T, l *lab) {
			l.write(t, "vdb", markOffset, other(testUUID, "zones", markSetup, "x"))
			l.write(t, "vdb", 1080, "\x53\xef")
		}, ErrForeignData, "ext4"},
		{"our reset's mark and another pool of the name", func(t *testing.T, l *lab) {
			if _, err := l.AddPool("zones", "vdb", true, nil); err != nil {
				t.Fatal(err)
			}
			l.write(t, "vdb", markOffset, other(testUUID, "zones", markReset, "7"))
		}, ErrForeignData, `the ZFS pool "zones"`},
		{"a damaged mark", func(t *testing.T, l *lab) { l.write(t, "vdb", markOffset, markMagic) }, ErrForeignData, "damaged mark"},
		{"the name is taken", func(t *testing.T, l *lab) {
			if _, err := l.AddPool("zones", "vdb", false, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Import(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, ErrForeignData, "no setup made"},
		{"a system pool of hand", func(t *testing.T, l *lab) {
			if _, err := l.AddPool("data", "vdb", false, map[string]string{propSystem: "on"}); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Import(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, ErrSetUp, "no setup made"},
		{"another server's system pool", func(t *testing.T, l *lab) {
			if _, err := l.AddPool("data", "vdb", false, map[string]string{propSystem: "on", propServer: "x"}); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Import(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, nil, "was made by server x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, "vdb", "vdc")
			tt.make(t, l)
			before := l.sum(t, "vdb") + l.sum(t, "vdc") + l.World.String()
			for range 2 {
				// An inventory from before the data came does not help.
				for _, disks := range [][]api.Disk{l.observed(t), l.disks} {
					err := l.Setup(t.Context(), api.SetupSpec{ID: testSetup}, disks, nil)
					if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
						t.Fatalf("got %v, want %v with %q", err, tt.want, tt.text)
					}
				}
			}
			if l.sum(t, "vdb")+l.sum(t, "vdc")+l.World.String() != before {
				t.Error("a refused setup changed something")
			}
		})
	}
}

// TestSetupOneDiskTwice: two names of one disk that tell nothing of it are found
// by what is written through the one and read through the other.
func TestSetupOneDiskTwice(t *testing.T) {
	l := newLab(t, "vdb", "vdc")
	dev := filepath.Join(l.World.Root, "dev")
	if err := errors.Join(os.Remove(filepath.Join(dev, "vdc")), os.Link(filepath.Join(dev, "vdb"), filepath.Join(dev, "vdc"))); err != nil {
		t.Fatal(err)
	}
	before := l.sum(t, "vdb")
	for range 2 {
		err := l.setup(t, api.SetupSpec{ID: testSetup})
		if !errors.Is(err, ErrOneDisk) || !strings.Contains(err.Error(), "--exclude vdb") {
			t.Fatalf("got %v", err)
		}
	}
	if l.sum(t, "vdb") != before || l.World.String() != "" {
		t.Errorf("a refused setup changed something:\n%s", l.World)
	}
	if err := l.setup(t, api.SetupSpec{ID: testSetup, Exclude: []string{"vdb"}}); err != nil {
		t.Fatal(err)
	}
}

func TestSetupPlanChanged(t *testing.T) {
	l := newLab(t, "vdb", "vdc")
	err := l.setup(t, api.SetupSpec{ID: testSetup, PlanDigest: strings.Repeat("0", 64)})
	if !errors.Is(err, ErrPlanChanged) {
		t.Errorf("got %v", err)
	}
	for _, spec := range []api.SetupSpec{{}, {ID: "a b"}, {ID: "a", Pool: "mirror"}, {ID: "a", Pool: "a/b"}, {ID: "a", Pool: "-f"}} {
		if err := l.setup(t, spec); err == nil {
			t.Errorf("%+v was accepted", spec)
		}
	}
	l.check(t, "")
}

func TestImportProblems(t *testing.T) {
	system := map[string]string{propSystem: "on", propServer: testUUID, propSetup: "a", propComplete: "a"}
	tests := []struct {
		name   string
		make   func(add func(name, disk string, foreign bool, props map[string]string))
		system string
		text   string
	}{
		{"foreign host", func(add func(string, string, bool, map[string]string)) { add("zones", "vdb", true, system) }, "", "another system used it last"},
		{"two of a name", func(add func(string, string, bool, map[string]string)) {
			add("zones", "vdb", false, system)
			add("zones", "vdc", false, system)
		}, "", "2 pools have that name"},
		{"two system pools", func(add func(string, string, bool, map[string]string)) {
			add("zones", "vdb", false, system)
			add("zones2", "vdc", false, system)
		}, "", "none is chosen"},
		{"a data pool beside", func(add func(string, string, bool, map[string]string)) {
			add("data", "vdb", false, nil)
			add("zones", "vdc", false, system)
		}, "zones", "zones/config is not mounted"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, "vdb", "vdc")
			tt.make(func(name, disk string, foreign bool, props map[string]string) {
				if _, err := l.AddPool(name, disk, foreign, props); err != nil {
					t.Fatal(err)
				}
			})
			for range 2 {
				im, err := l.Import(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				got := ""
				if im.System != nil {
					got = im.System.Name
				}
				if got != tt.system || !strings.Contains(strings.Join(im.Problems, "\n"), tt.text) {
					t.Errorf("system %q, problems %q", got, im.Problems)
				}
			}
			for _, c := range l.Calls() {
				if strings.Contains(c, " -f") {
					t.Errorf("forced: %s", c)
				}
			}
		})
	}
}

func FuzzMark(f *testing.F) {
	good, err := mark{Kind: markSetup, ID: "a", Server: testUUID, Pool: "zones"}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMark(b)
		if err != nil {
			return
		}
		again, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := decodeMark(again); err != nil || n != m {
			t.Fatalf("%+v became %+v, %v", m, n, err)
		}
		if !bytes.HasPrefix(again, []byte(markMagic)) {
			t.Fatal("no magic")
		}
	})
}
