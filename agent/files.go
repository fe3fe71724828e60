package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// Files in the run directory, which is in RAM and lives as long as the boot.
const (
	bootFile      = "boot.json"     // api.BootConfig, from the stub; 0600
	stubFile      = "stub.json"     // when the stub did what; from the stub
	keyFile       = "agent.key"     // also on the pool; 0600
	certFile      = "agent.crt"     // client certificate; 0600
	uuidFile      = "uuid"          // of the server, when the head node named another than the agent did
	specFile      = "spec.json"     // last spec; also on the pool; 0600
	portsFile     = "ports.log"     // what the set of ports said; also on the pool; 0600
	instancesFile = "instances.log" // what the set of instances said; also on the pool; 0600
	setsFile      = "sets.log"      // what sets of accounts said; also on the pool; 0600
	imagesFile    = "images.log"    // the same of images
	snapshotsFile = "snapshots.log" // the same of instances' snapshots
	timingsFile   = "timings.json"  // api.BootTimings of this boot
	powerFile     = "power.json"    // power request that was taken up
	statusFile    = "status.json"   // for nereid-agent status
)

// maxFile is more than a file has that others write. The specs and reports that the
// agent writes itself have any size, and are read back whatever it is.
const maxFile = 4 << 20

// writeFile replaces the file at once and for good: after a power cut there is
// the old one or the new one. Mode is 0600, as most of them hold secrets.
func writeFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	// renameio.WriteFile would keep the mode of a file that is there.
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.CloseAtomicallyReplace()
	}
	if cerr := f.Cleanup(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("write %s: sync directory: %w", path, err)
	}
	return nil
}

func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return writeFile(path, append(data, '\n'))
}

// readFile reads a whole file of bounded size. A missing file is fs.ErrNotExist.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("read %s: more than %d bytes", path, maxFile)
	}
	return data, nil
}

// readJSON reads a file that writeJSON wrote into v; found is false when there is none.
func readJSON(path string, v any) (found bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	return true, nil
}
