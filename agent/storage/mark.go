package storage

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

// A mark is 4 KiB at byte 512 Ki of a disk, in the gap between the primary GPT
// (which ends below 32 KiB) and the first partition (at 1 MiB). It says that a
// setup or a reset of this server was about to overwrite the disk, so that the
// same may be done again after a power cut.
//
//	0     8  "NEREIDMK"
//	8     4  version, little endian: 1
//	12    4  length of the JSON, little endian
//	16    n  JSON of mark
//	4064  32 SHA-256 of the bytes before
//
// A setup's mark is there only while the pool holds nothing; a reset's names the
// GUID of the pool that is being destroyed.
type mark struct {
	Kind   string `json:"kind"` // setup or reset
	ID     string `json:"id"`   // setup id; for a reset the GUID of the pool
	Server string `json:"server"`
	Pool   string `json:"pool"`
	// Disk is the kernel name that a setup wrote this mark by: a disk that is
	// reached by two names shows the mark of the later one under both.
	Disk string `json:"disk,omitempty"`
}

const (
	markOffset  = 512 << 10
	markSize    = 4096
	markMagic   = "NEREIDMK"
	markVersion = 1

	markSetup = "setup"
	markReset = "reset"
)

// errNoMark says that there is no mark; any other error that there is one of
// an unknown version or a damaged one.
var errNoMark = errors.New("no mark")

func (m mark) encode() ([]byte, error) {
	text, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode mark: %w", err)
	}
	b := make([]byte, markSize)
	copy(b, markMagic)
	binary.LittleEndian.PutUint32(b[8:], markVersion)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(text)))
	if n := copy(b[16:markSize-sha256.Size], text); n < len(text) {
		return nil, fmt.Errorf("encode mark: %d bytes do not fit", len(text))
	}
	sum := sha256.Sum256(b[:markSize-sha256.Size])
	copy(b[markSize-sha256.Size:], sum[:])
	return b, nil
}

func decodeMark(b []byte) (mark, error) {
	if len(b) != markSize || string(b[:8]) != markMagic {
		return mark{}, errNoMark
	}
	sum := sha256.Sum256(b[:markSize-sha256.Size])
	if string(b[markSize-sha256.Size:]) != string(sum[:]) {
		return mark{}, errors.New("decode mark: its checksum does not match")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != markVersion {
		return mark{}, fmt.Errorf("decode mark: version %d is not known here", v)
	}
	n := binary.LittleEndian.Uint32(b[12:])
	if n > markSize-sha256.Size-16 {
		return mark{}, fmt.Errorf("decode mark: %d bytes of text", n)
	}
	var m mark
	if err := json.Unmarshal(b[16:16+n], &m); err != nil {
		return mark{}, fmt.Errorf("decode mark: %w", err)
	}
	return m, nil
}
