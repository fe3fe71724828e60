package dhcp

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// FuzzHandle: no packet makes the handler crash, answer what it may not, or
// write an answer that does not parse.
func FuzzHandle(f *testing.F) {
	seeds, err := filepath.Glob("../../fixtures/dhcp/*.bin")
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, s := range seeds {
		b, err := os.ReadFile(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, false)
		f.Add(b, true)
	}
	f.Fuzz(func(t *testing.T, packet []byte, bootService bool) {
		retransmissionKey(packet, bootService)
		out, err := settings.Handle(t.Context(), &deciderFunc{answer: full()}, packet, netip.MustParseAddrPort("10.99.99.100:68"), bootService)
		if err != nil {
			if !errors.Is(err, ErrDropped) {
				t.Fatalf("error %v is not a refusal", err)
			}
			return
		}
		if out.Reply == nil {
			return
		}
		raw := out.Reply.ToBytes()
		back, err := dhcpv4.FromBytes(raw)
		if err != nil {
			t.Fatalf("answer does not parse: %v", err)
		}
		if back.OpCode != dhcpv4.OpcodeBootReply || back.TransactionID != out.Request.Message.TransactionID {
			t.Fatalf("not an answer to the request: %s", back.Summary())
		}
		if s := out.Request.Server; s.IsValid() && s != settings.Address.Addr() && !bootService {
			t.Fatalf("answered a message for server %s", s)
		}
		if !out.To.IsValid() {
			t.Fatal("no destination")
		}
	})
}
