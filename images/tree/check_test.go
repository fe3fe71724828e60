package tree

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"

	"nereid/api"
)

func gzipped(t testing.TB, parts ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, p := range parts {
		w := gzip.NewWriter(&b)
		if _, err := w.Write(p); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func zstded(t testing.TB, p []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(p, nil)
}

// xzed is made by the xz of the system: the library only reads.
func xzed(t testing.TB, p []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("xz", append([]string{"-c", "-T2"}, args...)...)
	cmd.Stdin = bytes.NewReader(p)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("xz: %v", err)
	}
	return out
}

func TestCheckCompressions(t *testing.T) {
	plain := tarOf(t, file("a/b"), file("c"))
	big := make([]byte, 300_000) // of which no frame is one block
	for i := range big {
		big[i] = byte(rand.IntN(256))
	}
	sum := sha256.Sum256(plain)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	skippable := append([]byte{0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3}, zstded(t, plain)...)
	z := zstded(t, plain)
	for name, tt := range map[string]struct {
		b    []byte
		said string
		want string // compression, or part of the error
	}{
		"plain":                  {plain, "", None},
		"gzip":                   {gzipped(t, plain), Gzip, Gzip},
		"xz":                     {xzed(t, plain), XZ, XZ},
		"xz in blocks":           {xzed(t, plain, "--block-size=1024", "--check=sha256"), "", XZ},
		"two streams of xz":      {append(xzed(t, plain[:700]), xzed(t, plain[700:])...), "", XZ},
		"zstd":                   {z, Zstd, Zstd},
		"skippable frame first":  {skippable, Zstd, Zstd},
		"two frames":             {append(zstded(t, plain[:700]), zstded(t, plain[700:])...), "", Zstd},
		"two members":            {gzipped(t, plain[:700], plain[700:]), "", Gzip},
		"gzip said plain":        {gzipped(t, plain), None, "by its first bytes it has gzip"},
		"plain said gzip":        {plain, Gzip, "by its first bytes it has none"},
		"bzip2":                  {[]byte("BZh91AY&SY"), "", "bzip2"},
		"junk behind gzip":       {append(gzipped(t, plain), "junk"...), "", "something else behind it"},
		"zeros behind gzip":      {append(gzipped(t, plain), make([]byte, 512)...), "", "something else behind it"},
		"junk behind zstd":       {append(bytes.Clone(z), "junk and more"...), "", "something else behind it"},
		"junk behind xz":         {append(xzed(t, plain), "junk"...), "", "something else behind it"},
		"gzip cut":               {gzipped(t, plain)[:60], "", "damaged or cut"},
		"zstd cut":               {z[:len(z)-1], "", "damaged or cut"},
		"xz cut":                 {xzed(t, plain)[:100], "", "damaged or cut"},
		"neither tar nor stream": {big, "", "cannot be read"},
		"nothing":                {nil, "", "no entries"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Check(t.Context(), iotest.OneByteReader(bytes.NewReader(tt.b)), tt.said, "", DefaultLimits())
			if err != nil {
				var f *FormatError
				if !strings.Contains(err.Error(), tt.want) || !errors.As(err, &f) {
					t.Errorf("got %T %v; want %s", err, err, tt.want)
				}
				return
			}
			if c.Compression != tt.want || c.Digest != digest || c.Size != int64(len(plain)) || c.Entries != 2 || c.Format != api.FormatTar {
				t.Errorf("got %+v; want %s, %s", c, tt.want, digest)
			}
		})
	}
	if _, err := Check(t.Context(), bytes.NewReader(plain), "", api.FormatZFS, DefaultLimits()); err == nil || !strings.Contains(err.Error(), "it has tar") {
		t.Errorf("a tar said to be a ZFS stream: %v", err)
	}
	cut := errors.New("cut")
	if _, err := Check(t.Context(), io.MultiReader(bytes.NewReader(z[:20]), iotest.ErrReader(cut)), "", "", DefaultLimits()); !errors.Is(err, cut) {
		t.Errorf("a disk that fails is no damaged file: %v", err)
	}
}

// A file that becomes much longer is a bomb; its end is not waited for.
func TestCheckBomb(t *testing.T) {
	zeros := make([]byte, 64<<20)
	one := zstded(t, zeros)
	bomb := bytes.Repeat(one, 40)
	l := DefaultLimits()
	l.Bytes = 100 << 20
	var limit *LimitError
	if _, err := Check(t.Context(), bytes.NewReader(bomb), "", "", l); !errors.As(err, &limit) {
		t.Errorf("absolute bound: %v", err)
	}
	s, err := Decompress(bytes.NewReader(bomb), Zstd, DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	n, err := io.Copy(io.Discard, s)
	if !errors.As(err, &limit) || n > ratioFrom+(4<<20) {
		t.Errorf("ratio: %v after %d bytes", err, n)
	}
	// What a small program makes of a window of 2 GiB is refused before it is allocated.
	huge := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00}
	if _, err := Check(t.Context(), bytes.NewReader(huge), Zstd, "", DefaultLimits()); err == nil {
		t.Error("a window of 2 GiB is taken")
	}
}

// stream is the first record of a ZFS stream.
func stream(o binary.ByteOrder, kind, features uint64, ost uint32, guid, from uint64, name string) []byte {
	b := make([]byte, streamHeader)
	o.PutUint64(b[8:], 0x2F5bacbac)
	o.PutUint64(b[16:], kind|features<<2)
	o.PutUint32(b[32:], ost)
	o.PutUint64(b[40:], guid)
	o.PutUint64(b[48:], from)
	copy(b[56:], name)
	return b
}

func TestCheckStream(t *testing.T) {
	le := binary.LittleEndian
	for name, tt := range map[string]struct {
		b    []byte
		want string // GUID and origin, or part of the error
	}{
		"full":        {append(stream(le, 1, 4, 2, 7, 0, "zones/a@final"), "records"...), "7 "},
		"big endian":  {stream(binary.BigEndian, 1, 4, 2, 1<<63+1, 0, "zones/a@final"), "9223372036854775809 "},
		"incremental": {stream(le, 1, 4, 2, 7, 5, "zones/a@final"), "7 5"},
		"compound":    {stream(le, 2, 4, 2, 7, 0, ""), "several datasets"},
		"raw":         {stream(le, 1, 1<<24, 2, 7, 0, ""), "is raw"},
		"volume":      {stream(le, 1, 4, 3, 7, 0, ""), "7  of a volume"},
		"other":       {stream(le, 1, 4, 1, 7, 0, ""), "neither of a file system nor of a volume"},
		"cut":         {stream(le, 1, 4, 2, 7, 0, "")[:311], "too short"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Check(t.Context(), bytes.NewReader(zstded(t, tt.b)), Zstd, api.FormatZFS, DefaultLimits())
			got := c.GUID + " " + c.Origin
			if c.Volume {
				got += " of a volume"
			}
			if err != nil {
				got = err.Error()
			}
			if !strings.Contains(got, tt.want) {
				t.Errorf("got %s; want %s", got, tt.want)
			}
		})
	}
}

// TestCheckDisk: the bytes of a disk are taken where they are said to be some, and a qcow2
// file by what its header says.
func TestCheckDisk(t *testing.T) {
	disk := make([]byte, 3<<20)
	copy(disk[510:], bootMark)
	gz, err := os.ReadFile("../../fixtures/qcow2/v3.qcow2.gz")
	if err != nil {
		t.Fatal(err)
	}
	bad := make([]byte, 1000)
	copy(bad, "QFI\xfb\x00\x00\x00\x03")
	for name, c := range map[string]struct {
		b                  []byte
		compression, sniff string
		format             string
		want               string // what Check says of it
	}{
		"raw":              {zstded(t, disk), Zstd, api.FormatRaw, api.FormatRaw, "raw 3145728 3145728"},
		"raw without boot": {disk[512:], None, api.FormatTar, api.FormatRaw, "raw 3145216 3145216"},
		"raw unsaid":       {disk[512:], None, api.FormatTar, "", "the tar has no entries"},
		"qcow2":            {gz, Gzip, api.FormatQCOW2, "", "qcow2 143360 1049088"},
		"qcow2 as raw":     {gz, Gzip, api.FormatQCOW2, api.FormatRaw, "by its first bytes it has qcow2"},
		"raw as qcow2":     {disk, None, api.FormatRaw, api.FormatQCOW2, "said to have format qcow2"},
		"stream as raw":    {stream(binary.LittleEndian, 1, 4, 3, 7, 0, ""), None, api.FormatZFS, api.FormatRaw, "by its first bytes it has zfs"},
		"bad qcow2":        {bad, None, api.FormatQCOW2, "", "refused"},
	} {
		s, err := Sniff(bytes.NewReader(c.b))
		if s.Compression != c.compression || s.Format != c.sniff || (err != nil) != (name == "bad qcow2") {
			t.Errorf("%s: %+v %v", name, s, err)
		}
		if s.Volume != (name == "stream as raw") || (s.Disk == 1049088) != (s.Compression == Gzip) {
			t.Errorf("%s: %+v", name, s)
		}
		got, err := Check(t.Context(), bytes.NewReader(c.b), "", c.format, DefaultLimits())
		said := fmt.Sprint(got.Format, " ", got.Size, " ", got.Disk)
		var no *FormatError
		if err != nil {
			said = err.Error()
			if !errors.As(err, &no) {
				t.Errorf("%s: %T", name, err)
			}
		}
		if !strings.Contains(said, c.want) {
			t.Errorf("%s: %s, want %s", name, said, c.want)
		}
	}
	// Zeros may be many; more than was said are not read.
	l := DefaultLimits()
	l.Bytes = 2 << 20
	var limit *LimitError
	if _, err := Check(t.Context(), bytes.NewReader(disk), "", api.FormatRaw, l); !errors.As(err, &limit) {
		t.Errorf("a longer disk: %v", err)
	}
}

// BenchmarkCheck reads a tar of 16 files of 1 MiB, as the head node does once for each
// image.
func BenchmarkCheck(b *testing.B) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	for i := range 16 {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprint(i), Mode: 0o644, Size: int64(len(data))}); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	z := zstded(b, buf.Bytes())
	b.SetBytes(int64(buf.Len()))
	for b.Loop() {
		if _, err := Check(b.Context(), bytes.NewReader(z), Zstd, "", DefaultLimits()); err != nil {
			b.Fatal(err)
		}
	}
}
