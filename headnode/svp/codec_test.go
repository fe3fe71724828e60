package svp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	mac1 = MAC{2, 1, 2, 3, 4, 5}
	id0  = [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	id1  = [16]byte{16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31}
)

// golden are messages written by hand from the protocol's table: version, operation,
// size, id, CRC (computed by Python's zlib), payload.
var golden = []struct {
	name string
	hex  string
	id   uint32
	m    Message
}{
	{"PING", "0001 0001 00000000 00000007 3af69528", 7, Ping{}},
	{"PONG", "0001 0002 00000000 00000007 873cf9e6", 7, Pong{}},
	{"VL2_REQ", "0001 0003 0000000c 00000001 36cf74e4  020102030405 0000 00abcdef", 1, VL2Req{MAC: mac1, VNI: 0xabcdef}},
	{"VL2_ACK", "0001 0004 00000014 00000001 1a8ff35a  0000 12b5 00000000000000000000ffffac100009", 1,
		VL2Ack{Underlay: netip.MustParseAddrPort("172.16.0.9:4789")}},
	{"VL2_ACK, not found", "0001 0004 00000014 00000001 7e7b9ffa  0002 0000 00000000000000000000000000000000", 1,
		VL2Ack{Status: StatusNotFound, Underlay: netip.MustParseAddrPort("[::]:0")}},
	{"VL3_REQ", "0001 0005 00000018 fffffffe 209cd3ab  00000000000000000000ffff0a000001 00000001 00abcdef", 0xfffffffe,
		VL3Req{IP: netip.MustParseAddr("10.0.0.1"), Type: TypeIPv4, VNI: 0xabcdef}},
	{"VL3_REQ, IPv6", "0001 0005 00000018 00000002 1c66ad8d  fd000000000000000000000000000001 00000002 00abcdef", 2,
		VL3Req{IP: netip.MustParseAddr("fd00::1"), Type: TypeIPv6, VNI: 0xabcdef}},
	{"VL3_ACK", "0001 0006 0000001c fffffffe 2db36526  00000000 020102030405 12b5 fd0000000000000000000000000000aa", 0xfffffffe,
		VL3Ack{MAC: mac1, Underlay: netip.MustParseAddrPort("[fd00::aa]:4789")}},
	{"VL3_ACK, bad type", "0001 0006 0000001c 00000003 67e659d8  00000003 000000000000 0000 00000000000000000000000000000000", 3,
		VL3Ack{Status: StatusBadL3Type, Underlay: netip.MustParseAddrPort("[::]:0")}},
	{"BULK_REQ", "0001 0007 00000004 00000004 12f76c92  00000001", 4, BulkReq{Type: 1}},
	{"BULK_ACK", "0001 0008 00000008 00000004 b96e9adc  00000004 00000001", 4, BulkAck{Status: StatusBadBulk, Type: 1}},
	{"LOG_REQ", "0001 0009 00000014 00000005 37e08739  00000400 00000000000000000000ffffac100009", 5,
		LogReq{Max: 1024, Underlay: netip.MustParseAddr("172.16.0.9")}},
	{"LOG_ACK", `0001 000a 00000050 00000005 24bba20e  00000000
		00000001 000102030405060708090a0b0c0d0e0f 020102030405 0000 00abcdef
		00000002 101112131415161718191a1b1c1d1e1f 00000000000000000000ffff0a000001 0000 0005 00abcdef`, 5,
		LogAck{Records: []Record{{ID: id0, VNI: 0xabcdef, MAC: mac1}, {ID: id1, VNI: 0xabcdef, IP: netip.MustParseAddr("10.0.0.1"), VLAN: 5}}}},
	{"LOG_ACK, empty", "0001 000a 00000004 00000005 6035eb55  00000000", 5, LogAck{}},
	{"LOG_RM", `0001 000b 00000024 00000006 851268e2  00000002
		000102030405060708090a0b0c0d0e0f 101112131415161718191a1b1c1d1e1f`, 6, LogRm{IDs: [][16]byte{id0, id1}}},
	{"LOG_RM_ACK", "0001 000c 00000004 00000006 fe8c6098  00000000", 6, LogRmAck{}},
	{"SHOOTDOWN", "0001 000d 0000000c 00000008 10a90f28  020102030405 0000 00abcdef", 8, Shootdown{MAC: mac1, VNI: 0xabcdef}},
	{"ROUTE_REQ", "0001 000e 00000002 00000009 8ac99cb6  beef", 9, Unknown{Operation: 0x0e, Payload: []byte{0xbe, 0xef}}},
	{"answer to an unknown operation", "0001 800e 00000004 00000009 2c65e999  00000001", 9,
		Unknown{Operation: 0x800e, Payload: []byte{0, 0, 0, 1}}},
}

var compare = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})}

func TestGolden(t *testing.T) {
	var stream []byte
	for _, g := range golden {
		want := unhex(t, g.hex)
		if got := Append([]byte("before"), g.id, g.m)[len("before"):]; !bytes.Equal(got, want) {
			t.Errorf("encode %s:\n got %x\nwant %x", g.name, got, want)
		}
		f, n, err := Decode(append(bytes.Clone(want), "behind"...))
		if diff := cmp.Diff(Frame{Version: 1, ID: g.id, Op: g.m.Op(), Message: g.m}, f, compare); diff != "" || n != len(want) || err != nil {
			t.Errorf("decode %s: %d bytes of %d, %v (-want +got):\n%s", g.name, n, len(want), err, diff)
		}
		stream = append(stream, want...)
	}
	r := iotest.OneByteReader(bytes.NewReader(stream))
	for _, g := range golden {
		f, err := Read(r, make([]byte, 20)) // too small for most
		if diff := cmp.Diff(Frame{Version: 1, ID: g.id, Op: g.m.Op(), Message: g.m}, f, compare); diff != "" || err != nil {
			t.Errorf("read %s: %v (-want +got):\n%s", g.name, err, diff)
		}
	}
	if _, err := Read(r, nil); err != io.EOF {
		t.Errorf("at the end of the stream: %v", err)
	}
}

// TestDecodeErrors: what is cut, too long, damaged or badly made is refused for
// that.
func TestDecodeErrors(t *testing.T) {
	whole := unhex(t, golden[2].hex)
	for n := range len(whole) {
		if _, _, err := Decode(whole[:n]); !errors.Is(err, ErrShort) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
		if _, err := Read(bytes.NewReader(whole[:n]), nil); err == nil || n > 0 && err == io.EOF || n > 0 && n != HeaderSize && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("read of %d bytes: %v", n, err)
		}
	}
	for i := range 8 * len(whole) {
		b := bytes.Clone(whole)
		b[i/8] ^= 1 << (i % 8)
		f, _, err := Decode(b)
		if i/8 >= 4 && i/8 < 8 { // the size: short, too long, or the wrong CRC
			if err == nil {
				t.Errorf("bit %d flipped: %+v", i, f)
			}
		} else if !errors.Is(err, ErrCRC) {
			t.Errorf("bit %d flipped: %+v, %v", i, f, err)
		}
	}
	long := Append(nil, 1, Unknown{Operation: 99, Payload: make([]byte, MaxPayload)})
	if f, _, err := Decode(long); err != nil || len(f.Message.(Unknown).Payload) != MaxPayload {
		t.Errorf("the largest payload: %v", err)
	}
	long = Append(nil, 1, Unknown{Operation: 99, Payload: make([]byte, MaxPayload+1)})
	if _, _, err := Decode(long); !errors.Is(err, ErrTooLong) {
		t.Errorf("a larger payload: %v", err)
	}
	if _, err := Read(bytes.NewReader(long), nil); !errors.Is(err, ErrTooLong) {
		t.Errorf("read of a larger payload: %v", err)
	}
	// Sound messages with a payload that is not what the operation has.
	for op, sizes := range map[Op][]int{
		OpPing: {1, 16}, OpPong: {1}, OpVL2Req: {0, 11, 13}, OpVL2Ack: {19, 21}, OpVL3Req: {23, 25}, OpVL3Ack: {27, 29}, OpBulkReq: {3, 8},
		OpBulkAck: {0, 7}, OpLogReq: {19, 21}, OpLogAck: {0, 3, 5, 36, 48}, OpLogRm: {0, 3, 5, 20}, OpLogRmAck: {0, 5}, OpShootdown: {0, 8},
	} {
		for _, n := range sizes {
			b := Append(nil, 77, Unknown{Operation: op, Payload: make([]byte, n)})
			f, n2, err := Decode(b)
			if !errors.Is(err, ErrFormat) || n2 != len(b) || f.ID != 77 || f.Op != op || f.Message != nil {
				t.Errorf("operation %#x with %d bytes: %+v, %d, %v", op, n, f, n2, err)
			}
		}
	}
	huge := be.AppendUint32(nil, 0xffffffff) // 16 times it overflows 32 bits
	if _, err := parse(OpLogRm, append(huge, make([]byte, 16)...)); err == nil {
		t.Error("a LOG_RM with fewer ids than it says is taken")
	}
}

// FuzzDecode: no input makes Decode panic, and what it takes comes out of Append
// again, but for padding.
func FuzzDecode(f *testing.F) {
	for _, g := range golden {
		f.Add(unhex(f, g.hex), true)
	}
	f.Add(bytes.Repeat([]byte{0}, HeaderSize), true)
	f.Add(Append(nil, 0, LogRm{}), false)
	f.Add(append(Append(nil, 1, Ping{}), Append(nil, 2, Pong{})...), true)
	f.Fuzz(func(t *testing.T, b []byte, repair bool) {
		if repair { // else hardly any would have a right CRC
			if frame, n := repaired(b); n > 0 {
				b = frame
			}
		}
		fr, n, err := Decode(b)
		if read, rerr := Read(bytes.NewReader(b), nil); (err == nil) != (rerr == nil) || !cmp.Equal(fr, read, compare) {
			t.Fatalf("Decode: %+v, %v; Read: %+v, %v", fr, err, read, rerr)
		}
		if err != nil {
			return
		}
		again := appendVersion(nil, fr.Version, fr.ID, fr.Message)
		if len(again) != n {
			t.Fatalf("%d bytes made of %d", len(again), n)
		}
		fr2, _, err := Decode(again)
		if err != nil || !cmp.Equal(fr, fr2, compare) {
			t.Fatalf("again: %+v, %v; want %+v", fr2, err, fr)
		}
	})
}

// repaired gives a message the size and CRC that it should have.
func repaired(b []byte) ([]byte, int) {
	if len(b) < HeaderSize || len(b) > HeaderSize+MaxPayload {
		return nil, 0
	}
	u := Unknown{Operation: Op(be.Uint16(b[2:])), Payload: b[HeaderSize:]}
	out := appendVersion(nil, be.Uint16(b), be.Uint32(b[8:]), u)
	return out, len(out)
}

func BenchmarkDecode(b *testing.B) {
	msg := unhex(b, golden[5].hex)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Decode(msg); err != nil {
			b.Fatal(err)
		}
	}
}
