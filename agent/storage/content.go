package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// found is what a disk carries.
type found struct {
	text   []string // what was recognised, in words
	parts  []partition
	labels []zfsLabel
	mark   *mark
	// blank: nothing but zeros where a disk's data begins and ends, and perhaps a mark.
	blank bool
	// bare: nothing but zeros, perhaps a mark, and a GPT with only ZFS partitions.
	bare bool
}

// examine looks at the edges of a disk, at its partition table, at ZFS labels,
// and at the places where a partition of a lost table began or ended.
func examine(r io.ReaderAt, size int64) (found, error) {
	var f found
	head := make([]byte, min(headEdge, size))
	tail := make([]byte, min(tailEdge, size))
	if err := readAt(r, head, 0); err != nil {
		return f, err
	}
	if err := readAt(r, tail, size-int64(len(tail))); err != nil {
		return f, err
	}
	if len(head) >= markOffset+markSize {
		area := head[markOffset : markOffset+markSize]
		m, err := decodeMark(area)
		switch {
		case err == nil:
			f.mark = &m
			clear(area)
		case !errors.Is(err, errNoMark):
			f.text = append(f.text, "a damaged mark of an unfinished setup")
		}
	}
	f.blank = zeros(head) && zeros(tail)
	parts, gpt := parseGPT(head, size)
	f.parts = parts
	if gpt {
		f.text = append(f.text, partitionTable("GPT", len(parts)))
		f.bare = onlyZFS(parts) && zeros(head[min(gptTable, len(head)):firstStart(parts, len(head))]) && zeros(tail[:max(0, len(tail)-gptTable)])
	} else if parts, mbr := parseMBR(head, size); mbr {
		f.parts = parts
		f.text = append(f.text, partitionTable("DOS", len(parts)))
	} else if backupGPT(tail) {
		f.text = append(f.text, "the backup of a GPT partition table")
		f.bare = zeros(head) && zeros(tail[:max(0, len(tail)-gptTable)])
	}
	f.recognise(head, tail)
	if len(f.parts) == 0 {
		if err := f.findLost(r, head, tail, size); err != nil {
			return f, err
		}
	}
	if f.blank {
		return f, nil
	}
	if err := f.findLabels(r, size); err != nil {
		return f, err
	}
	if len(f.text) == 0 {
		f.text = []string{"data of an unknown kind"}
	}
	return f, nil
}

// gptTable holds the tables of both ends: 34 blocks of 512, 6 of 4096 bytes.
const gptTable = 32 << 10

func onlyZFS(parts []partition) bool {
	return !slices.ContainsFunc(parts, func(p partition) bool { return !p.zfs })
}

// firstStart is where the first partition begins, at most limit.
func firstStart(parts []partition, limit int) int {
	first := int64(limit)
	for _, p := range parts {
		first = min(first, p.start)
	}
	return max(int(first), min(gptTable, limit))
}

func backupGPT(tail []byte) bool {
	for _, block := range []int{512, 4096} {
		if len(tail) >= block && bytes.HasPrefix(tail[len(tail)-block:], []byte("EFI PART")) {
			return true
		}
	}
	return false
}

// findLabels looks for ZFS labels on the whole disk and on each partition.
func (f *found) findLabels(r io.ReaderAt, size int64) error {
	list := make([]byte, labelListSize)
	for i, p := range append([]partition{{start: 0, end: size}}, f.parts...) {
		end := p.start + (p.end-p.start)&^(labelSize-1)
		for _, at := range []int64{p.start, p.start + labelSize, end - 2*labelSize, end - labelSize} {
			if at < p.start || at+labelSize > p.end {
				continue
			}
			if err := readAt(r, list, at+labelListOffset); err != nil {
				return err
			}
			l, ok := parseLabel(list)
			if !ok || slices.Contains(f.labels, l) {
				continue
			}
			if i == 0 {
				f.bare = false
			}
			f.label(l)
		}
	}
	return nil
}

// leftover reports whether a disk carries a mark of this server and besides it
// nothing but what the marked setup or reset leaves when it is cut short.
func (f found) leftover(server string) bool {
	if f.mark == nil || f.mark.Server != server || server == "" {
		return false
	}
	if f.blank {
		return true
	}
	if !f.bare {
		return false
	}
	for _, l := range f.labels {
		if l.auxiliary() {
			continue
		}
		if l.Pool != f.mark.Pool || f.mark.Kind == markReset && strconv.FormatUint(l.GUID, 10) != f.mark.ID {
			return false
		}
	}
	return true
}

// foreign is what the disk carries that this server may not overwrite by
// itself, in words; empty when there is nothing.
func (f found) foreign(server string) string {
	if f.leftover(server) || f.blank && f.mark == nil {
		return ""
	}
	text := f.text
	if f.mark != nil {
		text = append(slices.Clone(text), fmt.Sprintf("a mark of an unfinished %s of server %s", f.mark.Kind, f.mark.Server))
	}
	return strings.Join(text, " and ")
}

// Content says what foreign data the disk with this kernel name carries, empty
// when it is blank or carries only the remains of this server's own unfinished
// setup. It reads about 10 MiB and changes nothing. See sysinfo.Reader.Content.
func (s *Storage) Content(ctx context.Context, name string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	d, err := s.open(name, reading)
	if err != nil {
		return "", err
	}
	defer d.Close()
	f, err := examine(d, d.size)
	if err != nil {
		return "", fmt.Errorf("look into disk %s: %w", name, err)
	}
	return f.foreign(s.UUID), nil
}

func readAt(r io.ReaderAt, b []byte, at int64) error {
	if n, err := r.ReadAt(b, at); n < len(b) {
		return fmt.Errorf("read %d bytes at %d: %w", len(b), at, err)
	}
	return nil
}

func zeros(b []byte) bool {
	var z [4096]byte
	for len(b) > len(z) {
		if !bytes.Equal(b[:len(z)], z[:]) {
			return false
		}
		b = b[len(z):]
	}
	return bytes.Equal(b, z[:len(b)])
}
