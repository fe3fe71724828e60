package tree

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// a tar of headers; the bytes of a file are its name.
func tarOf(t testing.TB, hs ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range hs {
		body := ""
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(h.Name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		if h.Typeflag == tar.TypeReg {
			body = h.Name
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		h.Size = int64(len(body))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name string) tar.Header { return tar.Header{Name: name} }
func symlink(name, to string) tar.Header {
	return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}
}
func hardlink(name, to string) tar.Header {
	return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeLink}
}
func node7(name string, flag byte) tar.Header {
	return tar.Header{Name: name, Typeflag: flag, Devmajor: 8}
}

// read gives an entry a line, as "f usr/bin/x", and the error that ended it.
func read(b []byte, l Limits) (lines []string, s Summary, err error) {
	r := NewReader(bytes.NewReader(b), l)
	for {
		e, err := r.Next()
		if err != nil {
			return lines, r.Summary, err
		}
		line := fmt.Sprintf("%c %s", "?dfshp"[e.Kind], e.Path)
		if e.Link != "" {
			line += " -> " + e.Link
		}
		if e.Replaces {
			line += " (replaces)"
		}
		if e.Made {
			line += " (made)"
		}
		if e.Kind == File {
			body, err := io.ReadAll(r)
			if err != nil || int64(len(body)) != e.Size {
				return lines, r.Summary, fmt.Errorf("%s: %d bytes, %w", e.Path, len(body), err)
			}
		}
		lines = append(lines, line)
	}
}

func TestReaderGives(t *testing.T) {
	for name, tt := range map[string]struct {
		in   []tar.Header
		want []string
	}{
		"dots and slashes":             {[]tar.Header{file("./"), file("./a//b/./c")}, []string{"d .", "d a (made)", "d a/b (made)", "f a/b/c"}},
		"usr-merge":                    {[]tar.Header{file("usr/bin/"), symlink("bin", "usr/bin"), file("bin/sh")}, []string{"d usr (made)", "d usr/bin", "s bin -> usr/bin", "f usr/bin/sh"}},
		"absolute link":                {[]tar.Header{symlink("x", "/etc"), file("x/cron.d/p")}, []string{"s x -> /etc", "d etc (made)", "d etc/cron.d (made)", "f etc/cron.d/p"}},
		"link above root":              {[]tar.Header{symlink("a/x", "../../../../etc"), file("a/x/p")}, []string{"d a (made)", "s a/x -> ../../../../etc", "d etc (made)", "f etc/p"}},
		"chain of links":               {[]tar.Header{symlink("a", "b"), symlink("b", "/c"), symlink("c", "d/e"), file("a/f")}, []string{"s a -> b", "s b -> /c", "s c -> d/e", "d d (made)", "d d/e (made)", "f d/e/f"}},
		"links kept":                   {[]tar.Header{symlink("a", "/usr/b"), symlink("lib64/l", "../lib/l"), symlink("out", "../../../etc/shadow")}, []string{"s a -> /usr/b", "d lib64 (made)", "s lib64/l -> ../lib/l", "s out -> ../../../etc/shadow"}},
		"hard links":                   {[]tar.Header{file("usr/a"), symlink("l", "usr"), hardlink("b", "l/a"), hardlink("c", "./b")}, []string{"d usr (made)", "f usr/a", "s l -> usr", "h b -> usr/a", "h c -> b"}},
		"hard link to a symbolic link": {[]tar.Header{symlink("l", "/etc/shadow"), hardlink("m", "l")}, []string{"s l -> /etc/shadow", "h m -> l"}},
		"again":                        {[]tar.Header{file("d/"), file("d/f"), file("d/"), file("d/f"), symlink("d/f", "g")}, []string{"d d", "f d/f", "d d", "f d/f (replaces)", "s d/f -> g (replaces)"}},
		"directory over link":          {[]tar.Header{symlink("d", "e"), file("d/"), file("d/f")}, []string{"s d -> e", "d d (replaces)", "f d/f"}},
		"file over empty directory":    {[]tar.Header{file("d/"), file("d")}, []string{"d d", "f d (replaces)"}},
		"FIFO":                         {[]tar.Header{node7("p", tar.TypeFifo)}, []string{"p p"}},
		"devices":                      {[]tar.Header{node7("dev/sda", tar.TypeBlock), node7("./dev/null", tar.TypeChar), hardlink("n", "dev/null"), file("z")}, []string{"f z"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, s, err := read(tarOf(t, tt.in...), DefaultLimits())
			if err != io.EOF {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
			if name == "devices" && (s.Devices != 3 || s.Entries != 1 || s.Left[0] != "dev/sda") {
				t.Errorf("summary %+v", s)
			}
		})
	}
}

func TestReaderRefuses(t *testing.T) {
	owner := func(uid, gid int) tar.Header { return tar.Header{Name: "f", Uid: uid, Gid: gid, Format: tar.FormatGNU} }
	for name, tt := range map[string]struct {
		in   []tar.Header
		want string
	}{
		"dot dot":              {[]tar.Header{file("a/../../p")}, `entry "a/../../p": its name has the part ".."`},
		"absolute":             {[]tar.Header{file("/p")}, `entry "/p": its name is absolute`},
		"hard link out":        {[]tar.Header{hardlink("x", "../../../../etc/shadow")}, `entry "x": it is a hard link to "../../../../etc/shadow", which cannot be`},
		"absolute hard link":   {[]tar.Header{hardlink("x", "/etc/shadow")}, `its name is absolute`},
		"hard link to nothing": {[]tar.Header{hardlink("x", "etc/shadow")}, `there is no etc`},
		"hard link by a link":  {[]tar.Header{symlink("e", "/etc"), hardlink("x", "e/shadow")}, `there is no etc`},
		"hard link to a dir":   {[]tar.Header{file("d/"), hardlink("x", "d")}, `that is a directory`},
		"hard link to itself":  {[]tar.Header{file("x"), hardlink("x", "x")}, `its own name`},
		"loop":                 {[]tar.Header{symlink("a", "b"), symlink("b", "a"), file("a/x")}, "more than 40 symbolic links"},
		"parent is a file":     {[]tar.Header{file("a"), file("a/b")}, `entry "a/b": its parent a is a file`},
		"file over directory":  {[]tar.Header{file("a/b"), file("a")}, "a directory with entries is"},
		"root is a file":       {[]tar.Header{symlink(".", "x")}, "it would be the root"},
		"long part":            {[]tar.Header{file(strings.Repeat("x", 256))}, "longer than 255"},
		"deep":                 {[]tar.Header{file(strings.Repeat("x/", 520) + "f")}, "512 parts"},
		"owner 65536":          {[]tar.Header{owner(65536, 0)}, `entry "f": it belongs to 65536:0`},
		"owner 606400022":      {[]tar.Header{owner(0, 606400022)}, `0:606400022`},
		"owner 2^32-1":         {[]tar.Header{owner(4294967295, 0)}, `4294967295:0`},
		"empty link":           {[]tar.Header{symlink("l", "")}, "symbolic link whose target is empty"},
		"no entries":           {nil, "the tar has no entries"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := read(tarOf(t, tt.in...), DefaultLimits())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v; want %s", err, tt.want)
			}
			var entry *EntryError
			if tt.in != nil && !errors.As(err, &entry) {
				t.Errorf("%T, not an EntryError", err)
			}
		})
	}
	if _, _, err := read(tarOf(t, owner(MaxID, MaxID)), DefaultLimits()); err != io.EOF {
		t.Errorf("owner %d: %v", MaxID, err)
	}
}

func TestReaderLimits(t *testing.T) {
	var limit *LimitError
	l := DefaultLimits()
	l.Entries = 3
	if _, _, err := read(tarOf(t, file("a/b/c"), file("d")), l); !errors.As(err, &limit) {
		t.Errorf("four names of three: %v", err)
	}
	if _, _, err := read(tarOf(t, node7("a", tar.TypeChar), node7("a", tar.TypeChar), node7("a", tar.TypeChar), node7("a", tar.TypeChar)), l); !errors.As(err, &limit) {
		t.Errorf("four devices: %v", err)
	}
	l = DefaultLimits()
	l.Bytes = 5
	if _, _, err := read(tarOf(t, file("abc"), file("def")), l); !errors.As(err, &limit) || !strings.Contains(err.Error(), "def") {
		t.Errorf("six bytes of five: %v", err)
	}
	// A header that lies about the size: the bytes are not there.
	b := tarOf(t, file("abc"))
	for _, cut := range []int{513, 512 + 2} {
		var f *FormatError
		_, _, err := read(b[:cut], DefaultLimits())
		if !errors.As(err, &f) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
	var f *FormatError
	if _, _, err := read(append(b, "junk"...), DefaultLimits()); !errors.As(err, &f) {
		t.Errorf("junk behind the end: %v", err)
	}
	if _, _, err := read(append(b, make([]byte, 4096)...), DefaultLimits()); err != io.EOF {
		t.Errorf("zeros behind the end: %v", err)
	}
}

// Modes, owners and the attributes that an instance may have.
func TestReaderAttributes(t *testing.T) {
	h := tar.Header{Name: "ping", Mode: 0o4755, Uid: 1, Gid: 65535, PAXRecords: map[string]string{
		"SCHILY.xattr.security.capability": "\x01\x00\x00\x02", "SCHILY.xattr.user.note": "n",
		"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.security.selinux": "s"}}
	r := NewReader(bytes.NewReader(tarOf(t, h)), DefaultLimits())
	e, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	if e.Mode != fs.ModeSetuid|0o755 || e.UID != 1 || e.GID != 65535 {
		t.Errorf("%v %d:%d", e.Mode, e.UID, e.GID)
	}
	if d := cmp.Diff(map[string]string{"security.capability": "\x01\x00\x00\x02", "user.note": "n"}, e.Xattrs); d != "" {
		t.Error(d)
	}
}

// Whatever the bytes: what a Reader gives can be made in this order, below one root,
// without following a link.
func FuzzReader(f *testing.F) {
	f.Add(tarOf(f, file("a/b"), symlink("l", "../../etc"), file("l/x"), hardlink("h", "a/b")))
	f.Add(tarOf(f, file("../x")))
	f.Add(tarOf(f, symlink("a", "/"), file("a/a/a/b"), file("b/"), file("b")))
	f.Add(tarOf(f, node7("d", tar.TypeBlock), hardlink("e", "d"), node7("p", tar.TypeFifo)))
	f.Add(tarOf(f, tar.Header{Name: "x", PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b", "GNU.sparse.major": "1"}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b), Limits{Entries: 100, Bytes: 1 << 20, Ratio: 100})
		kinds := map[string]Kind{".": Dir}
		for {
			e, err := r.Next()
			if err != nil {
				return
			}
			if !fs.ValidPath(e.Path) {
				t.Fatalf("path %q", e.Path)
			}
			if i := strings.LastIndexByte(e.Path, '/'); i >= 0 && kinds[e.Path[:i]] != Dir {
				t.Fatalf("the parent of %q is %v", e.Path, kinds[e.Path[:i]])
			}
			was := kinds[e.Path]
			if (was != 0 && (was != Dir || e.Kind != Dir)) != e.Replaces {
				t.Fatalf("%q: %v after %v, replaces %v", e.Path, e.Kind, was, e.Replaces)
			}
			if was == Dir && e.Kind != Dir {
				for p := range kinds {
					if strings.HasPrefix(p, e.Path+"/") {
						t.Fatalf("%q is replaced, and %q is below it", e.Path, p)
					}
				}
			}
			kinds[e.Path] = e.Kind
			if e.Kind == Link {
				if kinds[e.Link] == 0 || kinds[e.Link] == Dir || e.Link == e.Path {
					t.Fatalf("%q is a link to %q, %v", e.Path, e.Link, kinds[e.Link])
				}
				kinds[e.Path] = kinds[e.Link]
			}
			if e.UID < 0 || e.UID > MaxID || e.GID < 0 || e.GID > MaxID {
				t.Fatalf("owner %d:%d", e.UID, e.GID)
			}
		}
	})
}
