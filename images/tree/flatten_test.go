package tree

import (
	"archive/tar"
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// layersOf are layers of these entries.
func layersOf(t testing.TB, layers ...[]tar.Header) (out []Layer) {
	for _, hs := range layers {
		b := tarOf(t, hs...)
		out = append(out, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
	}
	return out
}

func flat(t testing.TB, layers ...[]tar.Header) ([]string, Summary, error) {
	var b bytes.Buffer
	s, err := Flatten(t.Context(), layersOf(t, layers...), &b, DefaultLimits())
	if err != nil {
		return nil, s, err
	}
	lines, got, err := read(b.Bytes(), DefaultLimits())
	if err != io.EOF {
		t.Errorf("what Flatten writes is refused: %v", err)
	}
	if got.Entries != s.Entries || got.Bytes != s.Bytes {
		t.Errorf("it says %+v; written are %+v", s, got)
	}
	slices.Sort(lines)
	return lines, s, nil
}

type hs = []tar.Header

// Layers of images as they are found, and what is left of them.
func TestFlatten(t *testing.T) {
	opq := file("d/.wh..wh..opq")
	for name, tt := range map[string]struct {
		in   []hs
		want []string
	}{
		"opaque last":              {[]hs{{file("d/"), file("d/old")}, {file("d/"), file("d/new"), opq}}, []string{"d d", "f d/new"}},
		"opaque first":             {[]hs{{file("d/"), file("d/old")}, {file("d/"), opq, file("d/new")}}, []string{"d d", "f d/new"}},
		"opaque alone":             {[]hs{{file("d/"), file("d/old"), file("d/e/f")}, {opq}}, []string{"d d"}},
		"opaque of nothing":        {[]hs{{file("a")}, {opq}}, []string{"f a"}},
		"whiteouts":                {[]hs{{file("a"), file("b"), file("t/x")}, {hardlink(".wh.a", "b"), file(".wh.gone"), file(".wh.t"), file("t/.wh.x"), file(".wh..wh.plnk")}}, []string{"f b"}},
		"a directory goes":         {[]hs{{file("a"), file("d/e/f")}, {file(".wh.d/")}}, []string{"f a"}},
		"gone and back":            {[]hs{{file("d/e/f")}, {file("d/g"), file(".wh.d")}}, []string{"d d", "f d/g"}},
		"one name of two goes":     {[]hs{{file("a"), hardlink("b", "a")}, {file(".wh.a")}}, []string{"f b"}},
		"one name of two is new":   {[]hs{{file("a"), hardlink("b", "a")}, {symlink("a", "x")}}, []string{"f b", "s a -> x"}},
		"a link to a lower layer":  {[]hs{{file("usr/a"), symlink("l", "usr")}, {hardlink("c", "l/a")}}, []string{"d usr", "f c", "h usr/a -> c", "s l -> usr"}},
		"two names of a link":      {[]hs{{symlink("a", "x"), hardlink("b", "a")}}, []string{"h b -> a", "s a -> x"}},
		"parents again":            {[]hs{{file("usr/"), file("usr/lib/"), file("usr/lib/a")}, {file("usr/"), file("usr/lib/"), file("usr/lib/b")}, {file("usr/"), file("usr/lib/"), file("usr/lib/c")}}, []string{"d usr", "d usr/lib", "f usr/lib/a", "f usr/lib/b", "f usr/lib/c"}},
		"usr-merge":                {[]hs{{file("usr/bin/"), symlink("bin", "usr/bin")}, {file("bin/sh"), file("bin/.wh.no")}}, []string{"d usr", "d usr/bin", "f usr/bin/sh", "s bin -> usr/bin"}},
		"a wipe through a link":    {[]hs{{file("usr/bin/x"), symlink("bin", "usr/bin")}, {file("bin/.wh.x")}}, []string{"d usr", "d usr/bin", "s bin -> usr/bin"}},
		"a file over a directory":  {[]hs{{file("d/e/f")}, {file("d")}}, []string{"f d"}},
		"a directory over a file":  {[]hs{{file("d")}, {file("d/"), file("d/f")}}, []string{"d d", "f d/f"}},
		"an absolute link outside": {[]hs{{symlink("x", "/etc")}, {file("x/cron.d/p")}}, []string{"d etc", "d etc/cron.d", "f etc/cron.d/p", "s x -> /etc"}},
		"devices":                  {[]hs{{node7("dev/sda", tar.TypeBlock), hardlink("d", "dev/sda"), node7("p", tar.TypeFifo)}}, []string{"p p"}},
		"an empty layer":           {[]hs{{file("a")}, {}}, []string{"f a"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, _, err := flat(t, tt.in...)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
	for name, tt := range map[string]struct {
		in   hs
		want string
	}{
		"whiteout of nothing": {hs{file("d/.wh.")}, "whiteout of nothing"},
		"whiteout of ..":      {hs{file(".wh...")}, "whiteout of nothing"},
		"out":                 {hs{file("../x")}, `layer 2 of 2: entry "../x"`},
		"owner":               {hs{{Name: "f", Uid: 70000}}, "it belongs to 70000"},
		"a link to nothing":   {hs{hardlink("h", "gone")}, "no entry before it"},
	} {
		if _, _, err := flat(t, hs{file("a")}, tt.in); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %s", name, err, tt.want)
		}
	}
}

// A file's bytes are those of the layer that made it, also under its other names; modes
// and owners are kept.
func TestFlattenBytes(t *testing.T) {
	records := map[string]string{"SCHILY.acl.access": "user::rw-,user:1:r--,group::r--,mask::r--,other::r--", "SCHILY.xattr.user.x": "y"}
	one, two := tar.Header{Name: "a", Mode: 0o4755, Uid: 5, PAXRecords: records}, tar.Header{Name: "x/y/a"}
	var b bytes.Buffer
	if _, err := Flatten(t.Context(), layersOf(t, hs{one, hardlink("b", "a"), file("x/")}, hs{symlink("c", "x/y"), two, {Name: "./a", Mode: 0o600}}), &b, DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	r := tar.NewReader(&b)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			got[h.Name] = string(body)
		}
		if h.Name == "b" {
			for k, v := range records {
				if h.PAXRecords[k] != v {
					t.Errorf("%s is %q; want %q", k, h.PAXRecords[k], v)
				}
			}
		}
		if h.Name == "b" && (h.Mode != 0o4755 || h.Uid != 5) || h.Name == "a" && h.Mode != 0o600 {
			t.Errorf("%s: mode %o, owner %d", h.Name, h.Mode, h.Uid)
		}
	}
	if d := cmp.Diff(map[string]string{"a": "./a", "b": "a", "x/y/a": "x/y/a"}, got); d != "" {
		t.Error(d)
	}
}

// Whatever the layers: what is written is a tar that a Reader takes.
func FuzzFlatten(f *testing.F) {
	f.Add(tarOf(f, file("d/old"), symlink("l", "d")), tarOf(f, file("l/.wh..wh..opq"), hardlink("h", "l/x"), file("d/new")))
	f.Add(tarOf(f, file("a"), hardlink("b", "a")), tarOf(f, file(".wh.a"), file("b/"), file("b/c")))
	f.Fuzz(func(t *testing.T, one, two []byte) {
		var layers []Layer
		for _, b := range [][]byte{one, two} {
			layers = append(layers, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
		}
		l := Limits{Entries: 100, Bytes: 1 << 20, Ratio: 100}
		var out bytes.Buffer
		s, err := Flatten(t.Context(), layers, &out, l)
		if err != nil || s.Entries == 0 {
			return
		}
		if _, _, err := read(out.Bytes(), DefaultLimits()); err != io.EOF {
			t.Fatal(err)
		}
	})
}
