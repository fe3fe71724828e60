package platform

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// kbuild is a Kbuild file in OpenZFS's form: of its objects x86-64 gets seven.
const kbuild = `# ZFS_OBJS is below: not.o
CFLAGS_zfs/big.o += -O1
obj-$(CONFIG_ZFS) := spl.o zfs.o

SPL_OBJS := \
	one.o \
	two.o

zfs-objs += tree/tree.o

ICP_OBJS_X86_64 := \
	asm/a.o

ICP_OBJS_ARM64 := \
	asm/b.o \
	asm/c.o

ZFS_OBJS := \
	big.o \
	vdev.o \
	zap.o

ifeq ($(CONFIG_X86),y)
zfs-objs += $(addprefix icp/,$(ICP_OBJS_X86_64))
endif
UBSAN_SANITIZE_zfs/big.o := n
`

func TestCountObjects(t *testing.T) {
	if n := countObjects(kbuild); n != 7 {
		t.Errorf("%d objects, want 7", n)
	}
	if n := countObjects(""); n != 0 {
		t.Errorf("%d objects of nothing", n)
	}
}

// chroot is where packages make the modules, one step after another.
type chroot struct {
	t    *testing.T
	root string
	now  time.Time
}

func (c *chroot) write(path, text string) {
	c.t.Helper()
	path = filepath.Join(c.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		c.t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		c.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		c.t.Fatal(err)
	}
}

const dkmsBuild = "var/lib/dkms/zfs/2.3.9/build/"

// steps are what the packages do, 30 s each.
func (c *chroot) steps() []func() {
	log := func(text string) func() { return func() { c.write(dkmsBuild+"make.log", text) } }
	object := func(name string) func() { return log("  CC [M]  /var/lib/dkms/zfs/2.3.9/build/module/" + name + "\n") }
	return []func(){
		func() { c.write("var/lib/dpkg/info/bash.list", ""); c.write("var/lib/dpkg/info/gcc.list", "") },
		log("DKMS make.log\nchecking for gcc... gcc\nchecking whether the compiler works... yes\n"),
		func() {
			log("checking kernel source version... 6.12\nchecking whether bio has a thing... yes\n")()
			for _, f := range []string{"bio/bio.c", "bio/bio.o", "bio/bio.mod.c", "bio/bio.mod.o", "acl/acl.c"} {
				c.write(dkmsBuild+"build/"+f, "")
			}
		},
		func() { c.write(dkmsBuild+"module/Kbuild", kbuild); object("os/linux/spl/one.o")() },
		func() { object("two.o")(); log("  AS [M]  module/icp/asm/a.o\n")(); object("zfs/big.o")() },
		func() {
			for _, o := range []string{"zfs/vdev.o", "zfs/zap.o", "tree/tree.o", "zfs.mod.o"} {
				object(o)()
			}
		},
		func() {
			c.write("var/lib/dkms/zfs/2.3.9/6.12.0/x86_64/log/make.log", "")
			if err := os.Rename(filepath.Join(c.root, dkmsBuild), filepath.Join(c.root, "gone")); err != nil {
				c.t.Fatal(err)
			}
		},
	}
}

// TestCompileWatch follows two builds: the first forecasts only what it can
// count, the second knows how long the first took.
func TestCompileWatch(t *testing.T) {
	cache := t.TempDir()
	for _, want := range [][]string{
		{
			"unpacking: 2 of 118 packages; time left unknown",
			"configuring ZFS: 2 checks; time left unknown; whether the compiler works",
			"configuring ZFS: 4 checks, 1 of 2 trials; time left unknown; whether bio has a thing",
			"compiling ZFS: 1 of 7 objects; time left unknown; os/linux/spl/one.o",
			"compiling ZFS: 4 of 7 objects, about 25s left; zfs/big.o",
			"compiling ZFS: all 7 objects, now they are linked",
			"packing the modules",
		},
		{
			"unpacking: 2 of 118 packages, about 3m left",
			"configuring ZFS: 2 of 4 checks, about 3m left; whether the compiler works",
			"configuring ZFS: 4 of 4 checks, 1 of 2 trials, about 2m left; whether bio has a thing",
			"compiling ZFS: 1 of 7 objects, about 2m left; os/linux/spl/one.o",
			"compiling ZFS: 4 of 7 objects, about 25s left; zfs/big.o",
			"compiling ZFS: all 7 objects, now they are linked",
			"packing the modules",
		},
	} {
		c := &chroot{t: t, root: t.TempDir(), now: time.Unix(0, 0)}
		earlier, err := readFigures(cache)
		if err != nil {
			t.Fatal(err)
		}
		w := &compileWatch{root: c.root, packages: 118, now: func() time.Time { return c.now }, earlier: earlier}
		for i, step := range c.steps() {
			step()
			if got := w.look(); got != want[i] {
				t.Errorf("step %d: %q, want %q", i, got, want[i])
			}
			c.now = c.now.Add(30 * time.Second)
		}
		if err := w.keep(cache); err != nil {
			t.Fatal(err)
		}
	}
	f, err := readFigures(cache)
	if want := (compileFigures{Checks: 4, Seconds: [packing]float64{30, 60, 90}}); err != nil || f != want {
		t.Errorf("figures %+v, %v, want %+v", f, err, want)
	}
}

func TestFiguresDamaged(t *testing.T) {
	cache := t.TempDir()
	if err := os.WriteFile(filepath.Join(cache, compileFile), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := readFigures(cache); err == nil {
		t.Error("damaged figures were taken")
	}
}

// TestStageSaysHowFar runs a stage whose programs print nothing while they work,
// as mmdebstrap: what is shown follows their work, in lines of a terminal.
func TestStageSaysHowFar(t *testing.T) {
	var out bytes.Buffer
	s := newStages(t)
	s.show = &progress{w: &out, now: time.Now}
	c := &chroot{t: t, root: t.TempDir(), now: time.Now()}
	st := stage{name: "modules", what: "ZFS", inputs: []string{"x"}, run: func(ctx context.Context, r *runner, _, out string) error {
		r.tick("I: installing remaining packages inside the chroot...")
		w := &compileWatch{root: c.root, packages: 118, now: func() time.Time { return c.now }}
		s.show.follow(w.look)
		for _, step := range c.steps() {
			step()
			s.show.refresh() // as the ticker does
			c.now = c.now.Add(30 * time.Second)
		}
		s.show.follow(nil)
		return os.WriteFile(filepath.Join(out, "zfs.ko"), nil, 0o644)
	}}
	if _, err := s.do(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	seen := map[string]bool{}
	for _, line := range lines {
		if seen[line] || len(line) > 79 {
			t.Errorf("twice, or %d columns: %q", len(line), line)
		}
		seen[line] = true
	}
	if len(lines) != 9 || !strings.Contains(out.String(), "compiling ZFS: 4 of 7 objects, about 25s left") {
		t.Errorf("%d lines:\n%s", len(lines), out.String())
	}
}
