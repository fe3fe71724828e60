package storage

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"nereid/api"
)

// TestImportRefuses: whatever is wrong with the bytes, the error says what, nothing is
// left, and the same image can be imported at once.
func TestImportRefuses(t *testing.T) {
	l, r := rootsLab(t)
	b := testTar(t)
	stream, guid := l.stream(t)
	good, zfs := specOf(b, api.FormatTar), specOf(stream, api.FormatZFS)
	change := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	with := func(s api.ImageSpec, fn func(f *api.ImageFile)) api.ImageSpec {
		fn(&s.File)
		return s
	}
	raw, compound := bytes.Clone(stream), bytes.Clone(stream)
	raw[16+3] |= 1 << 2 // feature 1<<24, two bits further
	compound[16] = 2
	evil := func(h tar.Header) ([]byte, api.ImageSpec) {
		b := testTar(t, h)
		return b, specOf(b, api.FormatTar)
	}
	dots, dotsSpec := evil(tar.Header{Name: "etc/../../x"})
	abs, absSpec := evil(tar.Header{Name: "/x"})
	hard, hardSpec := evil(tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "../../etc/shadow"})
	two := append(bytes.Clone(b), b...)
	for name, c := range map[string]struct {
		spec  api.ImageSpec
		bytes io.Reader
		want  string
	}{
		"one byte changed":       {good, bytes.NewReader(change(b, 1100)), "changed on the way"},
		"a header changed":       {good, bytes.NewReader(change(b, 600)), "changed on the way"},
		"cut":                    {good, bytes.NewReader(b[:len(b)-1]), "cut"},
		"cut at half":            {good, bytes.NewReader(b[:len(b)/2]), "cut"},
		"the connection breaks":  {good, io.MultiReader(bytes.NewReader(b[:900]), iotest.ErrReader(errors.New("reset by peer"))), "reset by peer"},
		"more bytes":             {good, bytes.NewReader(append(bytes.Clone(b), 0)), "more bytes than its manifest says"},
		"longer than said":       {with(good, func(f *api.ImageFile) { f.UncompressedSize = 700 }), bytes.NewReader(b), "more than 700 bytes"},
		"two archives":           {specOf(two, api.FormatTar), bytes.NewReader(two), "behind the end of the tar"},
		"not gzip":               {with(good, func(f *api.ImageFile) { f.Compression = "gzip" }), bytes.NewReader(b), "is said to have compression gzip"},
		"no digest":              {with(good, func(f *api.ImageFile) { f.Digest = "md5:1" }), bytes.NewReader(b), "digest"},
		"dots":                   {dotsSpec, bytes.NewReader(dots), "etc/../../x"},
		"absolute":               {absSpec, bytes.NewReader(abs), `"/x"`},
		"hard link out":          {hardSpec, bytes.NewReader(hard), "../../etc/shadow"},
		"not a stream":           {with(specOf(b, api.FormatTar), func(f *api.ImageFile) { f.Format = api.FormatZFS }), bytes.NewReader(b), "ZFS stream"},
		"stream cut":             {zfs, bytes.NewReader(stream[:len(stream)-1]), "cut"},
		"stream cut in its head": {zfs, bytes.NewReader(stream[:100]), "cut"},
		"stream changed":         {zfs, bytes.NewReader(change(stream, 200)), "changed on the way"},
		"raw":                    {specOf(raw, api.FormatZFS), bytes.NewReader(raw), "raw"},
		"compound":               {specOf(compound, api.FormatZFS), bytes.NewReader(compound), "several datasets"},
		"another GUID":           {with(zfs, func(f *api.ImageFile) { f.DatasetGUID = "1" + guid }), bytes.NewReader(stream), "not 1" + guid},
	} {
		t.Run(name, func(t *testing.T) {
			err := r.ImportImage(t.Context(), c.spec, c.bytes, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), testImage) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if s := l.sets(); s != "" {
				t.Errorf("left: %s", s)
			}
		})
	}
	l.Full = true
	if err := r.ImportImage(t.Context(), good, bytes.NewReader(b), nil); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "pool zones is full") {
		t.Errorf("a full pool: %v", err)
	}
	l.Full = false
	ended, cancel := context.WithCancel(t.Context())
	cutOff := readerFunc(func([]byte) (int, error) { cancel(); return 0, context.Canceled })
	if err := r.ImportImage(ended, good, cutOff, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("an import that was ended: %v", err)
	}
	if s := l.sets(); s != "" {
		t.Errorf("left: %s", s)
	}
	if err := r.ImportImage(t.Context(), good, bytes.NewReader(b), nil); err != nil {
		t.Errorf("the good one after all of these: %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
