package tree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// streamHeader is the length of the first record of a ZFS stream, in bytes
// (dmu_replay_record, include/sys/zfs_ioctl.h).
const streamHeader = 312

// StreamInfo is what the first record of a ZFS stream says.
type StreamInfo struct {
	GUID   string // of the snapshot, decimal
	Origin string // GUID of the snapshot that it is a change of; empty: none
	Name   string // of the snapshot where it was sent
	Volume bool   // it is of a volume, not of a file system
}

// ReadStream reads the first record of a ZFS stream: one file system's or volume's,
// neither raw nor of several datasets.
func ReadStream(r io.Reader) (StreamInfo, error) {
	b := make([]byte, streamHeader)
	if _, err := io.ReadFull(r, b); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = &FormatError{"the file is too short for a ZFS stream"}
		}
		return StreamInfo{}, err
	}
	return parseStream(b)
}

// isStream says whether a file begins as a ZFS stream does.
func isStream(head []byte) bool { return streamOrder(head) != nil }

// streamOrder is the order of bytes of the machine that sent a stream; nil: it is none.
func streamOrder(b []byte) binary.ByteOrder {
	const begin, magic = 0, 0x2F5bacbac
	if len(b) < 16 {
		return nil
	}
	for _, o := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if o.Uint32(b) == begin && o.Uint64(b[8:]) == magic {
			return o
		}
	}
	return nil
}

func parseStream(b []byte) (StreamInfo, error) {
	const (
		compound   = 2 // DMU_COMPOUNDSTREAM
		filesystem = 2 // DMU_OST_ZFS
		volume     = 3 // DMU_OST_ZVOL
		raw        = 1 << 24
	)
	o := streamOrder(b)
	if o == nil {
		return StreamInfo{}, &FormatError{"the file is neither a tar nor a ZFS stream"}
	}
	version := o.Uint64(b[16:])
	kind, features := version&3, version>>2&(1<<30-1)
	ost, guid, from := o.Uint32(b[32:]), o.Uint64(b[40:]), o.Uint64(b[48:])
	switch {
	case kind == compound:
		return StreamInfo{}, &FormatError{"the ZFS stream is one of several datasets or snapshots; send one without -R and -I"}
	case features&raw != 0:
		return StreamInfo{}, &FormatError{"the ZFS stream is raw, so that its key would be needed; send it without -w"}
	case ost != filesystem && ost != volume:
		return StreamInfo{}, &FormatError{fmt.Sprintf("the ZFS stream is neither of a file system nor of a volume (objset type %d)", ost)}
	case guid == 0:
		return StreamInfo{}, &FormatError{"the ZFS stream names no snapshot"}
	}
	out := StreamInfo{GUID: strconv.FormatUint(guid, 10), Volume: ost == volume}
	if from != 0 {
		out.Origin = strconv.FormatUint(from, 10)
	}
	for _, c := range b[56:] {
		if c == 0 {
			break
		}
		out.Name += string(rune(c))
	}
	return out, nil
}
