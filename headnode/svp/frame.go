package svp

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Version is the version of the protocol.
const Version = 1

// HeaderSize is in bytes.
const HeaderSize = 16

// MaxPayload is the size of the largest payload that is read, in bytes: 4095 ids in
// a LOG_RM.
const MaxPayload = 64 << 10

// Errors of Decode and Read.
var (
	ErrShort   = errors.New("message is cut")
	ErrTooLong = fmt.Errorf("payload of more than %d bytes", MaxPayload)
	ErrCRC     = errors.New("wrong CRC")
	ErrFormat  = errors.New("payload cannot be taken apart") // what follows in the stream is sound
)

// Frame is a message with what its header says.
type Frame struct {
	Version uint16
	ID      uint32
	Op      Op
	Message Message // nil with ErrFormat
}

// Append adds a message of version 1 to b.
func Append(b []byte, id uint32, m Message) []byte { return appendVersion(b, Version, id, m) }

func appendVersion(b []byte, version uint16, id uint32, m Message) []byte {
	from := len(b)
	b = be.AppendUint16(b, version)
	b = be.AppendUint16(b, uint16(m.Op()))
	b = append(b, 0, 0, 0, 0)
	b = be.AppendUint32(b, id)
	b = append(b, 0, 0, 0, 0)
	b = m.payload(b)
	be.PutUint32(b[from+4:], uint32(len(b)-from-HeaderSize))
	be.PutUint32(b[from+12:], crc32.ChecksumIEEE(b[from:]))
	return b
}

// Decode takes the first message out of b, and says how many bytes it has. With
// ErrFormat the frame's header is good, and n is right; with any other error
// nothing is.
func Decode(b []byte) (f Frame, n int, err error) {
	if len(b) < HeaderSize {
		return f, 0, ErrShort
	}
	size, err := payloadSize(b)
	if err != nil {
		return f, 0, err
	}
	if len(b) < HeaderSize+size {
		return f, 0, ErrShort
	}
	b = b[:HeaderSize+size]
	crc := crc32.NewIEEE()
	_, _ = crc.Write(b[:12]) // a hash never fails
	_, _ = crc.Write([]byte{0, 0, 0, 0})
	_, _ = crc.Write(b[HeaderSize:])
	if got, want := be.Uint32(b[12:]), crc.Sum32(); got != want {
		return f, 0, fmt.Errorf("%w: %08x, computed %08x", ErrCRC, got, want)
	}
	f = Frame{Version: be.Uint16(b), Op: Op(be.Uint16(b[2:])), ID: be.Uint32(b[8:])}
	if f.Message, err = parse(f.Op, b[HeaderSize:]); err != nil {
		return f, len(b), fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return f, len(b), nil
}

// payloadSize reads the size in a header.
func payloadSize(header []byte) (int, error) {
	size := be.Uint32(header[4:])
	if size > MaxPayload {
		return 0, fmt.Errorf("%w: it says %d", ErrTooLong, size)
	}
	return int(size), nil
}

// Read reads one message; buf is used if it is large enough. io.EOF when the stream
// ends before a message, else the errors are those of Decode and of r.
func Read(r io.Reader, buf []byte) (Frame, error) {
	if len(buf) < HeaderSize {
		buf = make([]byte, HeaderSize)
	}
	if _, err := io.ReadFull(r, buf[:HeaderSize]); err != nil {
		return Frame{}, err
	}
	size, err := payloadSize(buf)
	if err != nil {
		return Frame{}, err
	}
	if len(buf) < HeaderSize+size {
		buf = append(buf[:HeaderSize:HeaderSize], make([]byte, size)...)
	}
	if _, err := io.ReadFull(r, buf[HeaderSize:HeaderSize+size]); err != nil {
		return Frame{}, fmt.Errorf("read payload of %d bytes: %w", size, err)
	}
	f, _, err := Decode(buf[:HeaderSize+size])
	return f, err
}
