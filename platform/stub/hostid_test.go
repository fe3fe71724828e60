package stub

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestHostIDOfServer: the host id, by which ZFS tells whose pool it sees, is of the
// server that the head node says this is; machines whose firmware has a placeholder
// for a UUID do not share one. What the head node does not know is the firmware's.
func TestHostIDOfServer(t *testing.T) {
	for _, c := range []struct{ config, firmware, want string }{
		{"1b7a8a4e-6a0f-5d0e-9c1e-0a8b33c35a01", "03000200-0400-0500-0006-000700080009", "1b7a8a4e-6a0f-5d0e-9c1e-0a8b33c35a01"},
		{"1b7a8a4e-6a0f-5d0e-9c1e-0a8b33c35a02", "03000200-0400-0500-0006-000700080009", "1b7a8a4e-6a0f-5d0e-9c1e-0a8b33c35a02"},
		{"", "4c4c4544-0042-3510-8056-b4c04f4d5332", "4c4c4544-0042-3510-8056-b4c04f4d5332"},
		{"", "", "52:54:00:12:34:56"},
	} {
		w := newWorld(t)
		conf := testConfig(w.server.URL)
		conf.UUID = c.config
		w.writeConfig(conf)
		w.stub.Machine.UUID = func() string { return c.firmware }
		w.run()
		want := hostID(c.want)
		if b, err := os.ReadFile(filepath.Join(w.dir, "root/etc/hostid")); err != nil || !bytes.Equal(b, want[:]) {
			t.Errorf("server %q, firmware %q: host id %x %v, want %x", c.config, c.firmware, b, err, want)
		}
	}
}
