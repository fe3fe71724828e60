package storage

import (
	"archive/tar"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"nereid/images/tree"
)

// folderTree is a Tree of a folder, beside which is a folder that nothing may reach.
func folderTree(t testing.TB) (to *Tree, root, outside string) {
	t.Helper()
	dir := t.TempDir()
	root, outside = filepath.Join(dir, "root"), filepath.Join(dir, "outside")
	for _, d := range []string{root, outside} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	top, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	to = &Tree{dir: d, top: top}
	t.Cleanup(func() { to.Close() })
	return to, root, outside
}

// untouched says what became of the folder beside the root.
func untouched(t testing.TB, root, outside string) {
	t.Helper()
	for dir, want := range map[string][]string{filepath.Dir(root): {"outside", "root"}, outside: {"secret"}} {
		entries, err := os.ReadDir(dir)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if err != nil || !slices.Equal(names, want) {
			t.Errorf("%s holds %v, %v", dir, names, err)
		}
	}
	info, err := os.Stat(filepath.Join(outside, "secret"))
	b, _ := os.ReadFile(filepath.Join(outside, "secret"))
	if err != nil || string(b) != "secret" || info.Mode() != 0o600 || info.Sys().(*syscall.Stat_t).Nlink != 1 {
		t.Errorf("the file outside is %v %q %v", info.Mode(), b, err)
	}
}

// listing is what a tree holds: type, permissions, name, and content or target.
func listing(t testing.TB, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(p)
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, p)
		fmt.Fprintf(&b, "%s %s", info.Mode(), name)
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %d %.20q", len(data), data)
		case info.Mode()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(p)
			fmt.Fprintf(&b, " -> %s", to)
		}
		fmt.Fprintln(&b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// member is an entry of a tar and its bytes.
type member struct {
	tar.Header
	data string
}

func entryOf(name string, kind byte, more string) member {
	m := member{Header: tar.Header{Name: name, Typeflag: kind, Mode: 0o644, Uid: os.Getuid(), Gid: os.Getgid(), ModTime: time.Unix(1e9, 0)}}
	switch kind {
	case tar.TypeReg:
		m.data, m.Size = more, int64(len(more))
	case tar.TypeDir:
		m.Mode = 0o755
	case tar.TypeSymlink, tar.TypeLink:
		m.Linkname = more
	}
	return m
}

func tarOf(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		if err := w.WriteHeader(&m.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unpackInto(t testing.TB, to *Tree, b []byte) (tree.Summary, error) {
	t.Helper()
	return unpack(t.Context(), to, tree.NewReader(bytes.NewReader(b), tree.DefaultLimits()))
}

// TestUnpackHostile: whatever a tar names, nothing outside the root changes or comes in.
func TestUnpackHostile(t *testing.T) {
	const f, d, s, h = tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink
	for name, c := range map[string]struct {
		in   []member
		want string // listing without the root's own line, or "refused: " and a part of the error
	}{
		"through a link out":     {[]member{entryOf("x", s, "../outside"), entryOf("x/p", f, "evil")}, "-rw-r--r-- outside/p 4 \"evil\"\nLrwxrwxrwx x -> ../outside\n"},
		"through an absolute":    {[]member{entryOf("etc", d, ""), entryOf("x", s, "/etc"), entryOf("x/p", f, "in")}, "-rw-r--r-- etc/p 2 \"in\"\nLrwxrwxrwx x -> /etc\n"},
		"chain of three":         {[]member{entryOf("usr/lib", d, ""), entryOf("a", s, "b"), entryOf("b", s, "/c"), entryOf("c", s, "usr/lib"), entryOf("a/l", f, "x")}, "-rw-r--r-- usr/lib/l 1 \"x\"\nLrwxrwxrwx a -> b\nLrwxrwxrwx b -> /c\nLrwxrwxrwx c -> usr/lib\n"},
		"usr-merge":              {[]member{entryOf("usr/bin", d, ""), entryOf("bin", s, "usr/bin"), entryOf("bin/sh", f, "sh")}, "-rw-r--r-- usr/bin/sh 2 \"sh\"\nLrwxrwxrwx bin -> usr/bin\n"},
		"file over a link":       {[]member{entryOf("x", s, "../outside/secret"), entryOf("x", f, "new")}, "-rw-r--r-- x 3 \"new\"\n"},
		"file over a hard link":  {[]member{entryOf("a", f, "one"), entryOf("b", h, "a"), entryOf("b", f, "two")}, "-rw-r--r-- a 3 \"one\"\n-rw-r--r-- b 3 \"two\"\n"},
		"hard link by a link":    {[]member{entryOf("etc", d, ""), entryOf("etc/a", f, "in"), entryOf("e", s, "/etc"), entryOf("b", h, "e/a")}, "-rw-r--r-- b 2 \"in\"\n-rw-r--r-- etc/a 2 \"in\"\nLrwxrwxrwx e -> /etc\n"},
		"devices":                {[]member{entryOf("dev", d, ""), entryOf("dev/sda", tar.TypeBlock, ""), entryOf("dev/null", tar.TypeChar, ""), entryOf("p", tar.TypeFifo, ""), entryOf("z", f, "z")}, "-rw-r--r-- z 1 \"z\"\nprw-r--r-- p\n"},
		"good links":             {[]member{entryOf("a", s, "/usr/b"), entryOf("lib64/l", s, "../lib/l"), entryOf("dangling", s, "../../../no")}, "Lrwxrwxrwx a -> /usr/b\nLrwxrwxrwx dangling -> ../../../no\nLrwxrwxrwx lib64/l -> ../lib/l\n"},
		"directories again":      {[]member{entryOf("d", d, ""), entryOf("d/f", f, "1"), entryOf("d", d, ""), entryOf("d/g", f, "2")}, "-rw-r--r-- d/f 1 \"1\"\n-rw-r--r-- d/g 1 \"2\"\n"},
		"link over an empty dir": {[]member{entryOf("d", d, ""), entryOf("d", s, "/e")}, "Lrwxrwxrwx d -> /e\n"},
		"dots":                   {[]member{entryOf("a/../../outside/p", f, "evil")}, `refused: entry "a/../../outside/p"`},
		"absolute":               {[]member{entryOf("/outside/p", f, "evil")}, `refused: entry "/outside/p"`},
		"hard link out":          {[]member{entryOf("x", h, "../outside/secret")}, `refused: entry "x"`},
		"hard link out by link":  {[]member{entryOf("e", s, "../outside"), entryOf("x", h, "e/secret")}, `refused: entry "x"`},
		"owner":                  {[]member{{Header: tar.Header{Name: "o", Uid: 65536}}}, `refused: entry "o"`},
	} {
		t.Run(name, func(t *testing.T) {
			if slices.ContainsFunc(c.in, func(m member) bool { return strings.Contains(m.Name, "/") }) && os.Getuid() != 0 {
				t.Skip("parents that a tar does not name are made for root, which root alone can do")
			}
			to, root, outside := folderTree(t)
			sum, err := unpackInto(t, to, tarOf(t, c.in...))
			untouched(t, root, outside)
			if want, refused := strings.CutPrefix(c.want, "refused: "); refused {
				var e *tree.EntryError
				if !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %s", err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if name == "devices" && sum.Devices != 2 {
				t.Errorf("%d devices were left out", sum.Devices)
			}
			var lines []string
			for line := range strings.Lines(listing(t, root)) {
				if !strings.HasPrefix(line, "d") {
					lines = append(lines, line)
				}
			}
			slices.Sort(lines)
			if d := cmp.Diff(c.want, strings.Join(lines, "")); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestUnpackAsTar: what GNU tar packs comes out as GNU tar itself unpacks it, with long
// names, hard links, sparse files, times, set-user-ID bits, capabilities and ACLs.
func TestUnpackAsTar(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("owners and capabilities are for root alone")
	}
	src := t.TempDir()
	long := strings.Repeat("long-", 40)
	for name, mode := range map[string]fs.FileMode{"bin/ping": 0o755, "bin/su": 0o755 | fs.ModeSetuid, "tmp/" + long + "/" + long: 0o600, "empty": 0o444} {
		p := filepath.Join(src, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(name), 0o600), os.Chown(p, 7, 65535), os.Chmod(p, mode)); err != nil {
			t.Fatal(err)
		}
	}
	sparse, err := os.Create(filepath.Join(src, "sparse"))
	if err == nil {
		_, err = sparse.WriteAt([]byte("middle"), 4<<30)
		err = errors.Join(err, sparse.Truncate(8<<30), sparse.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	ping := filepath.Join(src, "bin/ping")
	capability := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // cap_net_raw=ep
	// user::rwx,user:54321:r-x,group::r-x,mask::r-x,other::r-x
	acl, err := hex.DecodeString("02000000" + "01000700ffffffff" + "0200050031d40000" + "04000500ffffffff" + "10000500ffffffff" + "20000500ffffffff")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.Link(ping, filepath.Join(src, "ping")), os.Symlink("/bin/ping", filepath.Join(src, "link")),
		os.Chmod(filepath.Join(src, "tmp"), 0o777|fs.ModeSticky), syscall.Mkfifo(filepath.Join(src, "fifo"), 0o640),
		unix.Setxattr(ping, "security.capability", capability, 0), unix.Setxattr(ping, "system.posix_acl_access", acl, 0), unix.Setxattr(ping, "user.note", []byte("a\x00b"), 0),
		os.Chtimes(filepath.Join(src, "tmp"), time.Unix(1e9, 5e8), time.Unix(1e9, 5e8)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, format := range []string{"gnu", "posix"} {
		t.Run(format, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "tar", "-C", src, "-S", "--format="+format, "-cf", "-", ".")
			if format == "posix" {
				cmd.Args = slices.Insert(cmd.Args, 3, "--acls", "--xattrs", "--xattrs-include=*")
			}
			packed, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			to, root, outside := folderTree(t)
			sum, err := unpackInto(t, to, packed)
			if err != nil {
				t.Fatal(err)
			}
			untouched(t, root, outside)
			if sum.Entries < 12 {
				t.Errorf("summary %+v", sum)
			}
			if d := cmp.Diff(stats(t, src, format == "posix"), stats(t, root, format == "posix")); d != "" {
				t.Error(d)
			}
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(root, "sparse"), &st); err != nil || st.Blocks*512 > 1<<20 || st.Size != 8<<30 {
				t.Errorf("the sparse file has %d bytes in %d, %v", st.Size, st.Blocks*512, err)
			}
		})
	}
}

// stats is what belongs to every file but its content, which is compared for small ones.
func stats(t *testing.T, root string, fine bool) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(p, &st)
		}
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, p)
		sec, nsec := st.Mtim.Unix()
		if !fine {
			nsec = 0
		}
		line := fmt.Sprintf("%o %d:%d at %d.%d", st.Mode, st.Uid, st.Gid, sec, nsec)
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			line += fmt.Sprintf(" links %d size %d", st.Nlink, st.Size)
			if st.Size < 1<<20 {
				b, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				line += fmt.Sprintf(" %q", b)
			}
		}
		buf := make([]byte, 4096)
		for _, x := range []string{"security.capability", "system.posix_acl_access", "user.note"} {
			if n, err := unix.Lgetxattr(p, x, buf); err == nil && fine {
				line += fmt.Sprintf(" %s=%x", x, buf[:n])
			}
		}
		all[name] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestTree: files are written into a tree of somebody who wishes they went elsewhere.
func TestTree(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("folders that are missing are made for root, which root alone can do")
	}
	to, root, outside := folderTree(t)
	for name, target := range map[string]string{
		"etc": "../outside", "abs": outside, "run": "/var/run", "secret": "../outside/secret", "loop": "loop", "up": "../../../../../../../..",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(root, "outside"), 0o755); err != nil {
		t.Fatal(err)
	}
	o := Owner{Mode: 0o644}
	for name, want := range map[string]string{
		"/etc/hostname":      "outside/hostname",
		"abs/x":              "", // the folder that it means is not there
		"run/x":              "",
		"secret":             "secret",
		"loop/x":             "",
		"up/x":               "x",
		"a/b/c":              "a/b/c",
		"etc/../../outside/": "",
		"..":                 "",
		"/":                  "",
	} {
		err := to.WriteFile(name, []byte("text"), o)
		if (err == nil) != (want != "") {
			t.Errorf("write %s: %v", name, err)
		}
		if want == "" {
			continue
		}
		if b, err := os.ReadFile(filepath.Join(root, want)); err != nil || string(b) != "text" {
			t.Errorf("%s is not at %s: %q %v", name, want, b, err)
		}
		if b, err := to.ReadFile(name, 4); err != nil || string(b) != "text" {
			t.Errorf("read %s: %q %v", name, b, err)
		}
	}
	untouched(t, root, outside)
	if info, err := os.Lstat(filepath.Join(root, "secret")); err != nil || !info.Mode().IsRegular() {
		t.Errorf("the link is %v %v, and was to be replaced", info.Mode(), err)
	}
	if _, err := to.ReadFile("a/b/c", 3); err == nil || !strings.Contains(err.Error(), "4 bytes") {
		t.Errorf("a file that is too long: %v", err)
	}
	if err := syscall.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := to.ReadFile("fifo", 100); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a FIFO: %v", err)
	}
	if _, err := to.ReadFile("none", 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for range 2 {
		for what, err := range map[string]error{
			"make":   to.MkdirAll("root/.ssh", Owner{Mode: 0o700}),
			"link":   to.Symlink("/usr/share/zoneinfo/UTC", "etc/localtime"),
			"remove": to.Remove("a/b/c"),
		} {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	if info, err := os.Stat(filepath.Join(root, "root/.ssh")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", info, err)
	}
	if err := to.MkdirAll("a/b", o); err != nil {
		t.Error(err)
	}
	if err := to.WriteFile("a", nil, o); err == nil {
		t.Error("a folder was replaced by a file")
	}
	untouched(t, root, outside)
	if parts, _ := filepath.Glob(filepath.Join(root, "*", ".nereid-*")); len(parts) > 0 {
		t.Errorf("left: %v", parts)
	}
}

// FuzzUnpack: whatever bytes come as a tar, nothing outside the root changes.
func FuzzUnpack(f *testing.F) {
	const reg, s, h = tar.TypeReg, tar.TypeSymlink, tar.TypeLink
	f.Add(tarOf(f, entryOf("x", s, "../outside"), entryOf("x/secret", reg, "evil")))
	f.Add(tarOf(f, entryOf("a", s, "/"), entryOf("a/a/b/..c", reg, "x"), entryOf("h", h, "a/b/..c")))
	f.Add(tarOf(f, entryOf("d/", tar.TypeDir, ""), entryOf("d", s, "../outside"), entryOf("d/secret", h, "d/x")))
	f.Add(tarOf(f, entryOf("p", tar.TypeFifo, ""), entryOf("p", reg, "x"), entryOf("b", tar.TypeBlock, "")))
	f.Fuzz(func(t *testing.T, b []byte) {
		to, root, outside := folderTree(t)
		r := tree.NewReader(bytes.NewReader(b), tree.Limits{Entries: 200, Bytes: 1 << 20, Ratio: 100})
		_, err := unpack(t.Context(), to, r)
		untouched(t, root, outside)
		var e *tree.EntryError
		if errors.As(err, &e) && strings.ContainsRune(err.Error(), '\n') {
			t.Errorf("the error has more than one line: %v", err)
		}
	})
}

// xattrOf is an extended attribute of a file in a tree.
func xattrOf(t testing.TB, to *Tree, name, attr string) []byte {
	t.Helper()
	fd, err := openIn(to.fd(), name, unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 4096)
	n, err := unix.Fgetxattr(fd, attr, buf)
	if err != nil {
		t.Errorf("attribute %s of %s: %v", attr, name, err)
		return nil
	}
	return buf[:n]
}
