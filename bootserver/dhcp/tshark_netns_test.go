//go:build netns

package dhcp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// pcap writes UDP payloads from 10.99.99.7:67 to 255.255.255.255:68 as a capture
// of raw IPv4 packets (link type 101).
func pcap(payloads [][]byte) []byte {
	var b bytes.Buffer
	put := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) } // to a buffer
	put([]uint32{0xa1b2c3d4, 0x00040002, 0, 0, 65535, 101})
	for i, p := range payloads {
		n := uint32(28 + len(p))
		put([]uint32{uint32(i), 0, n, n})
		ip := []byte{0x45, 0, byte(n >> 8), byte(n), 0, 0, 0, 0, 64, 17, 0, 0, 10, 99, 99, 7, 255, 255, 255, 255}
		udp := []byte{0, 67, 0, 68, byte((n - 20) >> 8), byte(n - 20), 0, 0}
		b.Write(append(append(ip, udp...), p...))
	}
	return b.Bytes()
}

// TestNetNSTshark: a foreign dissector finds nothing malformed in any answer and
// reads the same boot file from it.
func TestNetNSTshark(t *testing.T) {
	seeds, err := filepath.Glob("../../fixtures/dhcp/*.bin")
	if err != nil || len(seeds) == 0 {
		t.Fatalf("no seeds: %v", err)
	}
	var replies [][]byte
	var files []string
	for _, s := range seeds {
		b, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		out, err := settings.Handle(t.Context(), &deciderFunc{answer: full()}, b, netip.MustParseAddrPort("10.99.99.100:4011"), strings.Contains(s, "boot-service"))
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		replies = append(replies, out.Reply.ToBytes())
		files = append(files, out.BootFile)
	}
	path := filepath.Join(t.TempDir(), "answers.pcap")
	if err := os.WriteFile(path, pcap(replies), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "tshark", "-n", "-r", path, "-T", "fields", "-e", "dhcp.type", "-e", "_ws.malformed",
		"-e", "_ws.expert.message", "-e", "dhcp.option.bootfile_name")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v %s", err, stderr.String())
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	if len(lines) != len(replies) {
		t.Fatalf("tshark sees %d packets of %d:\n%s", len(lines), len(replies), out)
	}
	for i, l := range lines {
		if want := "2\t\t\t" + files[i]; l != want {
			t.Errorf("%s: tshark says %q, want %q", seeds[i], l, want)
		}
	}
}
