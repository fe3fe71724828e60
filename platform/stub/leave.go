package stub

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"nereid/api"
)

// Timings are seconds of the kernel's clock at points of the boot, left for the
// agent in /run/nereid/stub.json.
type Timings struct {
	Stub       float64 `json:"stub_s"`        // the stub started
	Root       float64 `json:"root_s"`        // the root filesystem is there and verified
	SwitchRoot float64 `json:"switch_root_s"` // the stub enters it
}

// hostID derives the host id of gethostid(3), by which ZFS knows whose pool it
// sees, from the server's UUID. It is never 0, which stands for none.
func hostID(uuid string) [4]byte {
	sum := sha256.Sum256([]byte(strings.ToLower(strings.TrimSpace(uuid))))
	id := binary.LittleEndian.Uint32(sum[:4])
	if id == 0 {
		id = 1
	}
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], id)
	return b
}

// leaveIdentity writes /etc/hostid and /etc/hostname into the new root. Without
// a UUID the NIC's MAC stands in for it.
func leaveIdentity(root, uuid, mac, hostname string) error {
	if strings.TrimSpace(uuid) == "" {
		uuid = mac
	}
	id := hostID(uuid)
	etc := filepath.Join(root, "etc")
	if err := os.MkdirAll(etc, 0o755); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	if err := replace(filepath.Join(etc, "hostid"), id[:], 0o644); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	if hostname == "" {
		return nil
	}
	if err := replace(filepath.Join(etc, "hostname"), []byte(hostname+"\n"), 0o644); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	return nil
}

// resolvConf is the resolvers' file (resolv.conf(5)), to which the platform's
// /etc/resolv.conf links; without resolvers it has a comment only.
func resolvConf(n api.BootNetwork) string {
	s := "# by the boot's configuration\n"
	if n.Domain != "" {
		s += "search " + n.Domain + "\n"
	}
	for _, a := range n.DNS {
		s += "nameserver " + a.String() + "\n"
	}
	return s
}

// leaveRun writes what the agent reads, and the resolvers: run is /run/nereid.
func leaveRun(run string, config, manifest []byte, n api.BootNetwork, t Timings) error {
	if err := os.MkdirAll(run, 0o755); err != nil {
		return fmt.Errorf("write %s: %w", run, err)
	}
	timings, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("write timings: %w", err)
	}
	return errors.Join(
		replace(filepath.Join(run, "boot.json"), config, 0o600),
		replace(filepath.Join(run, "manifest.json"), manifest, 0o644),
		replace(filepath.Join(run, "stub.json"), timings, 0o644),
		replace(filepath.Join(run, "resolv.conf"), []byte(resolvConf(n)), 0o644),
	)
}

// replace writes a new file: an old one, or a link of a lower layer, is removed first.
func replace(path string, data []byte, mode os.FileMode) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}
