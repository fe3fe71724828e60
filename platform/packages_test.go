package platform

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func samplePackage() Package {
	return Package{
		Name: "libssl3t64", Version: "1:3.5.1-1+deb13u1", Arch: "amd64", SHA256: strings.Repeat("ab", 32), Size: 10,
		Archive: archiveMain, Path: "pool/main/o/openssl/libssl3t64_3.5.1-1%2bdeb13u1_amd64.deb",
	}
}

func sampleList() PackageList {
	return PackageList{
		Suite: "trixie", Arch: debArch, Flavour: FlavourGeneric, Kernel: "6.12.117+deb13-amd64",
		Stages: []StagePackages{{Stage: "base", Packages: []Package{samplePackage()}}},
	}
}

func TestPackageListReadsWhatIsWritten(t *testing.T) {
	b, err := json.Marshal(sampleList())
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParsePackageList(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sampleList(), got); d != "" {
		t.Errorf("read back (-want +got):\n%s", d)
	}
}

func TestPackageListRefusesWhatIsNotOne(t *testing.T) {
	for name, change := range map[string]func(*PackageList){
		"path leaves the pool":    func(l *PackageList) { l.Stages[0].Packages[0].Path = "pool/../../etc/shadow" },
		"path is absolute":        func(l *PackageList) { l.Stages[0].Packages[0].Path = "/etc/shadow" },
		"path has a blank":        func(l *PackageList) { l.Stages[0].Packages[0].Path = "pool/a b" },
		"name is an option":       func(l *PackageList) { l.Stages[0].Packages[0].Name = "-oDir=/" },
		"name has a slash":        func(l *PackageList) { l.Stages[0].Packages[0].Name = "a/b" },
		"version has a blank":     func(l *PackageList) { l.Stages[0].Packages[0].Version = "1 2" },
		"digest is short":         func(l *PackageList) { l.Stages[0].Packages[0].SHA256 = "ab" },
		"digest is in capitals":   func(l *PackageList) { l.Stages[0].Packages[0].SHA256 = strings.Repeat("AB", 32) },
		"size is not positive":    func(l *PackageList) { l.Stages[0].Packages[0].Size = 0 },
		"archive is unknown":      func(l *PackageList) { l.Stages[0].Packages[0].Archive = "elsewhere" },
		"foreign architecture":    func(l *PackageList) { l.Stages[0].Packages[0].Arch = "arm64" },
		"package is there twice":  func(l *PackageList) { l.Stages[0].Packages = append(l.Stages[0].Packages, samplePackage()) },
		"stage is there twice":    func(l *PackageList) { l.Stages = append(l.Stages, l.Stages[0]) },
		"suite is no suite":       func(l *PackageList) { l.Suite = "../x" },
		"flavour is unknown":      func(l *PackageList) { l.Flavour = "rt" },
		"kernel leaves its place": func(l *PackageList) { l.Kernel = "../../x" },
	} {
		t.Run(name, func(t *testing.T) {
			l := sampleList()
			change(&l)
			b, err := json.Marshal(l)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ParsePackageList(bytes.NewReader(b)); err == nil {
				t.Error("was accepted")
			}
		})
	}
}

func FuzzPackageList(f *testing.F) {
	b, err := json.Marshal(sampleList())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"suite":"trixie","arch":"amd64","flavour":"amd64","kernel":"6","stages":[{"stage":"x","packages":[{}]}]}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, in []byte) {
		l, err := ParsePackageList(bytes.NewReader(in))
		if err != nil {
			return
		}
		// What was accepted can be used as paths and arguments.
		for _, s := range l.Stages {
			for _, p := range s.Packages {
				if !filepath.IsLocal(p.Path) || strings.HasPrefix(p.Name, "-") || strings.Contains(p.Name, "/") || len(p.SHA256) != 64 {
					t.Errorf("accepted %+v", p)
				}
			}
		}
		if !filepath.IsLocal(l.Kernel) {
			t.Errorf("accepted kernel %q", l.Kernel)
		}
	})
}

func TestAptAnswers(t *testing.T) {
	a := parseTargets(strings.Join([]string{
		"https://node.example/x/ Node|Node",
		"http://mirror.example/debian-security/ Debian|Debian-Security",
		"http://mirror.example/debian/ Debian Backports|Debian Backports",
		"http://mirror.example/debian/ Debian|Debian",
		"http://second.example/debian/ Debian|Debian",
		"file:/srv/debian/ Debian|Debian",
	}, "\n"))
	want := archives{archiveMain: "http://mirror.example/debian/", archiveSecurity: "http://mirror.example/debian-security/"}
	if d := cmp.Diff(want, a); d != "" {
		t.Fatalf("archives (-want +got):\n%s", d)
	}
	sum := strings.Repeat("0a", 32)
	out := "Reading package lists...\n" +
		"'http://mirror.example/debian/pool/main/o/openssh/openssh-server_10.0p1-7%2bdeb13u1_amd64.deb' openssh-server_1%3a10.0p1-7+deb13u1_amd64.deb 603176 SHA256:" + sum + "\n" +
		"'http://mirror.example/debian-security/pool/updates/main/a/apt/apt_3.0_amd64.deb' apt_3.0_amd64.deb 5 SHA256:" + sum + "\n"
	pkgs, err := parseURIs(out, a)
	if err != nil {
		t.Fatal(err)
	}
	wantPkgs := []Package{
		{Name: "apt", Version: "3.0", Arch: "amd64", SHA256: sum, Size: 5, Archive: archiveSecurity, Path: "pool/updates/main/a/apt/apt_3.0_amd64.deb"},
		{Name: "openssh-server", Version: "1:10.0p1-7+deb13u1", Arch: "amd64", SHA256: sum, Size: 603176, Archive: archiveMain, Path: "pool/main/o/openssh/openssh-server_10.0p1-7%2bdeb13u1_amd64.deb"},
	}
	if d := cmp.Diff(wantPkgs, pkgs); d != "" {
		t.Errorf("packages (-want +got):\n%s", d)
	}
	if _, err := parseURIs("'http://other.example/debian/pool/a_1_amd64.deb' a_1_amd64.deb 5 SHA256:"+sum+"\n", a); err == nil {
		t.Error("a file from a mirror that was not asked was accepted")
	}
}

func TestUpstreamVersion(t *testing.T) {
	for in, want := range map[string]string{"2.3.9-0+deb13u1": "2.3.9", "1:10.0p1-7": "10.0p1", "6.12": "6.12"} {
		if got := upstream(in); got != want {
			t.Errorf("upstream(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestOutputThatIsNoPlatformIsNotReplaced(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	o := Options{Out: dir, Cache: t.TempDir()}
	if _, err := o.complete(); err == nil || !strings.Contains(err.Error(), "holds no platform") {
		t.Errorf("error %v; want a refusal to replace it", err)
	}
	for _, bad := range []Options{{}, {Out: "x", Flavour: "rt"}, {Out: "x", Stamp: "yesterday"}, {Out: "x", Suite: "a b"}} {
		if _, err := bad.complete(); err == nil {
			t.Errorf("options %+v were accepted", bad)
		}
	}
}
