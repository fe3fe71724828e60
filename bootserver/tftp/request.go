package tftp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// Error codes of RFC 1350, section 5, and RFC 2347.
const (
	codeUndefined    = 0
	codeNotFound     = 1
	codeAccess       = 2
	codeIllegal      = 4
	codeOptionDenied = 8
)

const (
	opRead  = 1
	opWrite = 2
	opError = 5
)

// Verdict is what is done with a datagram that came to port 69.
type Verdict struct {
	// Read is a read request for File, cleaned of everything not understood.
	Read []byte
	File string
	// Code and Text are the refusal, when Text is not empty.
	Code uint16
	Text string
	// Asked is the file name as it was asked for, for logs.
	Asked string
	// Size says that the client asks for tsize.
	Size bool
}

// wanted is the name of the file a client means. Firmware writes what it was told
// with a slash or backslash in front, in capitals, or with bytes behind it that were
// never part of the name (the code of the DHCP option that followed).
func wanted(asked []byte) string {
	name := strings.TrimRightFunc(string(asked), func(r rune) bool { return r <= ' ' || r > '~' })
	return strings.ToLower(strings.TrimPrefix(strings.ReplaceAll(name, `\`, "/"), "/"))
}

// Decide reads one datagram. known says which files there are, by names in lower
// case. A zero Verdict means silence: the datagram is not a request.
func Decide(packet []byte, known func(name string) bool) Verdict {
	if len(packet) < 4 {
		return Verdict{}
	}
	op := binary.BigEndian.Uint16(packet)
	if op != opRead && op != opWrite {
		return Verdict{}
	}
	fields := bytes.Split(packet[2:], []byte{0})
	if len(fields) < 3 || len(fields[0]) == 0 {
		return Verdict{Code: codeIllegal, Text: "malformed request: want a file name and a mode, each ended by a zero byte"}
	}
	asked := printable(string(fields[0]))
	name := wanted(fields[0])
	if op == opWrite {
		return Verdict{Asked: asked, Code: codeAccess, Text: "this server is read only: nothing can be written here"}
	}
	if !known(name) {
		return Verdict{Asked: asked, Code: codeNotFound, Text: fmt.Sprintf("no file %q here: only iPXE is sent over TFTP, everything else over HTTP", asked)}
	}
	if mode := strings.ToLower(string(fields[1])); mode != "octet" {
		return Verdict{Asked: asked, Code: codeIllegal, Text: fmt.Sprintf("mode %q is not supported: use octet (binary)", printable(mode))}
	}
	v := Verdict{File: name, Asked: asked}
	out := binary.BigEndian.AppendUint16(nil, opRead)
	out = append(append(out, name...), 0)
	out = append(append(out, "octet"...), 0)
	seen := map[string]bool{}
	for i := 2; i+1 < len(fields); i += 2 {
		option, value := strings.ToLower(string(fields[i])), string(fields[i+1])
		if seen[option] {
			continue // RFC 2347: an option may appear once
		}
		seen[option] = true
		switch option {
		case "blksize":
			// RFC 2348: 8 to 65464. Less than the default is not worth a
			// negotiation: without the option the client gets 512.
			if n, err := strconv.Atoi(value); err == nil && n >= 512 && n <= 65464 {
				out = append(out, "blksize\x00"+strconv.Itoa(n)+"\x00"...)
			}
		case "tsize":
			out = append(out, "tsize\x000\x00"...)
			v.Size = true
		}
	}
	v.Read = out
	return v
}

// errorPacket makes an ERROR datagram.
func errorPacket(code uint16, text string) []byte {
	b := binary.BigEndian.AppendUint16(nil, opError)
	b = binary.BigEndian.AppendUint16(b, code)
	return append(append(b, text...), 0)
}

// printable keeps what may go to a screen or a log, at most 100 bytes of it.
func printable(s string) string {
	if len(s) > 100 {
		s = s[:100]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
