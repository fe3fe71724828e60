package bootserver_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/u-root/u-root/pkg/cpio"

	"nereid/api"
	"nereid/bootserver"
)

var update = flag.Bool("update", false, "write golden files")

const (
	base = "http://10.99.99.7"
	bid  = "abcdefghijklmnopqrstuvwxyz"
)

func manifest() *api.Manifest {
	return &api.Manifest{Stamp: "20261122T101500Z", Arch: "x86_64",
		Kernel: api.File{Name: "vmlinuz", SHA256: strings.Repeat("a", 64), Size: 12 << 20},
		Initrd: api.File{Name: "initrd.img", SHA256: strings.Repeat("b", 64), Size: 1 << 20},
		Layers: []api.File{{Name: "base.squashfs", SHA256: strings.Repeat("c", 64), Size: 80 << 20}},
		Args:   []string{"quiet", "systemd.show_status=0"}}
}

func TestScripts(t *testing.T) {
	script := func(p api.BootPlan) string {
		s, err := bootserver.Script(base, p)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for name, got := range map[string]string{
		"boot": script(api.BootPlan{BootID: bid, Manifest: manifest(), Args: []string{"console=tty0", "debug"}}),
		"boot-own-args": script(api.BootPlan{BootID: bid, Manifest: manifest(), Args: []string{
			"nereid.boot=" + bid, "BOOTIF=01-52-54-00-12-34-56", "console=tty0", "console=ttyS0,115200n8"}}),
		"held": script(api.BootPlan{BootID: bid, RetryIn: 120, Hold: "this server began 5 boots in 10 minutes and none of them reached a first sync; " +
			"it is held back so that someone can look. See: nereid server boot-log 52:54:00:12:34:56"}),
		"unknown": bootserver.RefusedScript(&api.Problem{Status: 404, Code: api.CodeNotFound, Detail: "no boot has this id", Next: "begin a new boot"}),
		"refused": bootserver.RefusedScript(&api.Problem{Status: 409, Code: api.CodeUUIDCollision,
			Detail: "two machines claim the SMBIOS UUID 6f1b1c2e-0c55-4c7e-9d0a-0123456789ab; a ${net0/mac} || && ; #1 \x1b[31m\nnew line",
			Next:   "decide on the head node which of them it is"}),
	} {
		path := filepath.Join("testdata", name+".ipxe")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), got); d != "" {
			t.Errorf("%s (-want +got):\n%s", path, d)
		}
		for line := range strings.Lines(got) {
			if len(line) > 80 && strings.HasPrefix(line, "echo") && name != "boot" && name != "boot-own-args" {
				t.Errorf("%s: line longer than a screen: %q", name, line)
			}
		}
	}
}

func TestScriptRefusesArguments(t *testing.T) {
	for _, arg := range []string{"", "a b", "x\ny", "||", "&&", ";", "#x", "${net0/mac}", "\xff", "ü"} {
		m := manifest()
		m.Args = []string{arg}
		if s, err := bootserver.Script(base, api.BootPlan{BootID: bid, Manifest: m}); err == nil {
			t.Errorf("argument %q was taken:\n%s", arg, s)
		}
	}
	if _, err := bootserver.Script(base, api.BootPlan{BootID: bid}); err == nil {
		t.Error("a plan without manifest and hold gave a script")
	}
}

// FuzzRefusal: no text of a refusal becomes a command.
func FuzzRefusal(f *testing.F) {
	f.Add("no boot has this id", "begin a new boot")
	f.Add("a\nshell", "${x} || shell ; shell # &&")
	f.Add("$${x", "x && shell")
	f.Fuzz(func(t *testing.T, detail, next string) {
		s := bootserver.RefusedScript(&api.Problem{Status: 404, Code: api.CodeNotFound, Detail: detail, Next: next})
		lines := strings.Split(s, "\n")
		rest := 0
		for _, l := range lines {
			if text, ok := strings.CutPrefix(l, "echo Nereid: "); ok {
				for _, w := range strings.Fields(text) {
					if w == "||" || w == "&&" || w == ";" || w[0] == '#' || strings.Contains(w, "${") {
						t.Fatalf("%q in %q", w, l)
					}
				}
				continue
			}
			rest++
		}
		if rest != 6 { // #!ipxe, :again, sleep, dhcp, chain and the end
			t.Fatalf("%d lines that are not echo:\n%s", rest, s)
		}
	})
}

func TestConfigArchive(t *testing.T) {
	b, err := bootserver.ConfigArchive(api.BootConfig{BootID: bid, Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	if len(b)%512 != 0 {
		t.Errorf("%d bytes, not a multiple of 512", len(b))
	}
	rs, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(b)))
	if err != nil {
		t.Fatal(err)
	}
	if len(rs) != 2 || rs[0].Name != "nereid" || rs[0].Mode != cpio.S_IFDIR|0o700 || rs[1].Name != "nereid/boot.json" || rs[1].Mode != cpio.S_IFREG|0o600 {
		t.Errorf("records %v", rs)
	}
}
