package mdata

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
)

// Codes of answers.
const (
	Success  = "SUCCESS"
	NotFound = "NOTFOUND"
	Failure  = "FAILURE"
)

// Commands of version 2.
const (
	Get    = "GET"
	Put    = "PUT"
	Delete = "DELETE"
	Keys   = "KEYS"
)

// Frame is a message of version 2.
type Frame struct {
	ID   string // 1 to 8 hexadecimal digits: an answer has its request's
	Word string // command, or code
	Data []byte // without its base64; empty: there is none
}

// Append adds the frame, with its line end.
func (f Frame) Append(b []byte) []byte {
	body := f.ID + " " + f.Word
	if len(f.Data) > 0 {
		body += " " + base64.StdEncoding.EncodeToString(f.Data)
	}
	return fmt.Appendf(b, "V2 %d %08x %s\n", len(body), crc32.ChecksumIEEE([]byte(body)), body)
}

var errFrame = errors.New("mdata: not a frame of version 2")

// ParseFrame reads a line, without its end. An error wraps no other: what is wrong with
// a frame is nobody's to know.
func ParseFrame(line []byte) (f Frame, err error) {
	rest, ok := bytes.CutPrefix(line, []byte("V2 "))
	length, rest, ok2 := bytes.Cut(rest, []byte(" "))
	sum, body, ok3 := bytes.Cut(rest, []byte(" "))
	if !ok || !ok2 || !ok3 {
		return f, errFrame
	}
	n, err := strconv.ParseUint(string(length), 10, 31)
	if err != nil || n != uint64(len(body)) || !digits(length, 10, "0123456789") {
		return f, errFrame
	}
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if err != nil || uint32(want) != crc32.ChecksumIEEE(body) || !digits(sum, 8, hexadecimal) {
		return f, errFrame
	}
	id, rest, ok := bytes.Cut(body, []byte(" "))
	word, data, _ := bytes.Cut(rest, []byte(" "))
	if !ok || len(word) == 0 || !digits(id, 8, hexadecimal) {
		return f, errFrame
	}
	f.ID, f.Word = string(id), string(word)
	if len(data) > 0 {
		if f.Data, err = decode(data); err != nil {
			return Frame{}, errFrame
		}
	}
	return f, nil
}

const hexadecimal = "0123456789abcdefABCDEF"

// digits reports whether b is 1 to most bytes of set.
func digits(b []byte, most int, set string) bool {
	return len(b) > 0 && len(b) <= most && len(bytes.Trim(b, set)) == 0
}

func decode(b []byte) ([]byte, error) {
	out := make([]byte, base64.StdEncoding.DecodedLen(len(b)))
	n, err := base64.StdEncoding.Strict().Decode(out, b)
	return out[:n], err
}

// putData is the payload of a PUT.
func putData(key, value string) []byte {
	return []byte(base64.StdEncoding.EncodeToString([]byte(key)) + " " + base64.StdEncoding.EncodeToString([]byte(value)))
}

func parsePut(data []byte) (key, value string, err error) {
	a, b, ok := bytes.Cut(data, []byte(" "))
	k, kerr := decode(a)
	v, verr := decode(b)
	if !ok || kerr != nil || verr != nil {
		return "", "", errors.New("want the key and the value in base64, with a space between them")
	}
	return string(k), string(v), nil
}
