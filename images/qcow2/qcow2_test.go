package qcow2

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
)

// blockOf is the n-th block of 512 bytes of the fixtures' disk, which has 2,049.
func blockOf(n int) []byte {
	b := make([]byte, 512)
	if n%97 == 0 || n%97 == 3 || n >= 2047 {
		copy(b, strings.Repeat(fmt.Sprintf("block %d of a disk that nereid's tests read. ", n), 20))
	}
	return b
}

func fixtureDisk() []byte {
	var b []byte
	for n := range 2049 {
		b = append(b, blockOf(n)...)
	}
	return b
}

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open("../../fixtures/qcow2/" + name + ".qcow2.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var fixtures = []string{"v3", "v2-deflate", "v3-zstd"}

// read gives the whole disk in a file of at most 4 MiB.
func read(ctx context.Context, file []byte) ([]byte, error) {
	i, err := Open(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return nil, err
	}
	disk := make([]byte, min(i.Size, 4<<20))
	last := int64(-1)
	return disk, i.Each(ctx, func(at int64, data []byte) error {
		if at <= last || at < 0 || at+int64(len(data)) > i.Size || len(data) == 0 {
			return fmt.Errorf("%d bytes at %d of %d, after %d", len(data), at, i.Size, last)
		}
		last = at
		if at < int64(len(disk)) {
			copy(disk[at:], data)
		}
		return nil
	})
}

// TestRead: what QEMU wrote is read, to the byte.
func TestRead(t *testing.T) {
	for _, name := range fixtures {
		file := fixture(t, name)
		got, err := read(t.Context(), file)
		if err != nil || !bytes.Equal(got, fixtureDisk()) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		// The last cluster of a file may be cut where it holds zeros; nothing else may.
		for _, n := range []int{len(file) / 2, 4096, 600, 110, 90, 60, 5, 0} {
			_, err := read(t.Context(), file[:n])
			var no *RefusedError
			if !errors.As(err, &no) {
				t.Errorf("%s, the first %d bytes: %v", name, n, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := read(ctx, file); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		stop := errors.New("stop")
		i, err := Open(bytes.NewReader(file), int64(len(file)))
		if err == nil {
			err = i.Each(t.Context(), func(int64, []byte) error { return stop })
		}
		if !errors.Is(err, stop) {
			t.Errorf("stopped: %v", err)
		}
	}
}

// TestRefused: a file that would have QEMU open others, or that lies, is told why.
func TestRefused(t *testing.T) {
	be := binary.BigEndian
	good := fixture(t, "v3")
	l1 := be.Uint64(good[40:])
	l2 := be.Uint64(good[l1:]) & offsetBits
	for name, c := range map[string]struct {
		change func(b []byte)
		want   string
	}{
		"backing file":      {func(b []byte) { be.PutUint64(b[8:], 600); be.PutUint32(b[16:], 11); copy(b[600:], "/etc/passwd") }, `another file, "/etc/passwd"`},
		"backing json":      {func(b []byte) { be.PutUint64(b[8:], 600); be.PutUint32(b[16:], 9); copy(b[600:], `json:{...`) }, "another file"},
		"backing out of it": {func(b []byte) { be.PutUint64(b[8:], 1<<40); be.PutUint32(b[16:], 1<<31) }, `another file, ""`},
		"data file":         {func(b []byte) { b[79] |= 4 }, "in another file"},
		"data file by name": {func(b []byte) {
			be.PutUint32(b[112:], 0x44415441)
			be.PutUint32(b[116:], 11)
			copy(b[120:], "/etc/shadow")
		}, `its data, "/etc/shadow"`},
		"encrypted":           {func(b []byte) { b[35] = 1 }, "encrypted"},
		"LUKS":                {func(b []byte) { be.PutUint32(b[112:], 0x0537be77) }, "encrypted"},
		"extended L2":         {func(b []byte) { b[79] |= 16 }, "extended_l2"},
		"corrupt":             {func(b []byte) { b[79] |= 2 }, "is corrupt"},
		"dirty":               {func(b []byte) { b[79] |= 1 }, "did not close it"},
		"unknown feature":     {func(b []byte) { b[72] |= 0x80 }, "not known here: 0x8000000000000000"},
		"unknown compression": {func(b []byte) { b[79] |= 8; b[104] = 9 }, "not known here: 9"},
		"compression unsaid":  {func(b []byte) { b[79] |= 8 }, "not known here: 0"},
		"version":             {func(b []byte) { b[7] = 4 }, "its version is 4"},
		"header length":       {func(b []byte) { be.PutUint32(b[100:], 1<<30) }, "its header says"},
		"endless extensions":  {func(b []byte) { be.PutUint32(b[112:], 1); be.PutUint32(b[116:], 1<<32-1) }, "goes on for more"},
		"small clusters":      {func(b []byte) { b[23] = 8 }, "clusters have 2^8"},
		"huge clusters":       {func(b []byte) { b[23] = 40 }, "clusters have 2^40"},
		"no disk":             {func(b []byte) { be.PutUint64(b[24:], 0) }, "disk has 0 bytes"},
		"8 EiB":               {func(b []byte) { be.PutUint64(b[24:], 1<<63) }, "want 1 to"},
		"60 TiB":              {func(b []byte) { be.PutUint64(b[24:], 60<<40) }, "want at most 33554432"},
		"larger than tables":  {func(b []byte) { be.PutUint64(b[24:], 1<<30) }, "its table is only for"},
		"smaller than tables": {func(b []byte) { be.PutUint64(b[24:], 4096) }, "behind the end of its disk"},
		"table outside":       {func(b []byte) { be.PutUint64(b[40:], 1<<30) }, "table ends at byte"},
		"table in the clouds": {func(b []byte) { be.PutUint64(b[40:], 1<<63) }, "where none can be"},
		"table askew":         {func(b []byte) { be.PutUint64(b[40:], l1+8) }, "where none can be"},
		"second table":        {func(b []byte) { be.PutUint64(b[l1:], 1<<40) }, "a table is at byte"},
		"cluster outside":     {func(b []byte) { be.PutUint64(b[l2:], 1<<40) }, "a cluster is at byte"},
		"cluster askew":       {func(b []byte) { be.PutUint64(b[l2:], 4096+512) }, "no cluster's"},
		"reserved bits":       {func(b []byte) { be.PutUint64(b[l2:], 4096|2) }, "bits that are not known"},
		"packed outside":      {func(b []byte) { be.PutUint64(b[l2:], 1<<62|1<<40) }, "compressed cluster of"},
		"packed rubbish":      {func(b []byte) { be.PutUint64(b[l2:], 1<<62|4096) }, "is damaged"},
		"one for all": {func(b []byte) {
			for n := range uint64(256) {
				be.PutUint64(b[l2+n*8:], l2)
			}
		}, "more than once"},
		"no magic": {func(b []byte) { b[0] = 'q' }, "does not begin"},
	} {
		file := slices.Clone(good)
		c.change(file)
		_, err := read(t.Context(), file)
		var no *RefusedError
		if !errors.As(err, &no) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

// TestSparse: a vast disk of which nothing was written costs its table.
func TestSparse(t *testing.T) {
	file := make([]byte, 3<<16)
	copy(file, "QFI\xfb")
	be := binary.BigEndian
	be.PutUint32(file[4:], 2)
	be.PutUint32(file[20:], 16)
	be.PutUint64(file[24:], 8<<40)
	be.PutUint32(file[36:], 16384)
	be.PutUint64(file[40:], 1<<16)
	i, err := Open(bytes.NewReader(file), int64(len(file)))
	if err != nil || i.Size != 8<<40 {
		t.Fatal(i, err)
	}
	if err := i.Each(t.Context(), func(at int64, _ []byte) error { return fmt.Errorf("bytes at %d", at) }); err != nil {
		t.Error(err)
	}
}

// FuzzRead: whatever the file, it is read or refused, in bounded memory and time.
func FuzzRead(f *testing.F) {
	for _, name := range fixtures {
		f.Add(fixture(f, name))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		if len(file) > 1<<20 {
			return
		}
		_, err := read(t.Context(), file)
		var no *RefusedError
		if err != nil && !errors.As(err, &no) {
			t.Errorf("neither read nor refused: %v", err)
		}
		if _, err := Parse(file[:min(len(file), HeadSize)], -1); err != nil && !errors.As(err, &no) {
			t.Error(err)
		}
	})
}
