package zone

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"nereid/agent/machine/mdata"
	"nereid/api"
)

// Paths on a server.
const (
	Program  = "/usr/lib/nereid/nereid-zone"
	Dir      = "/run/nereid/zones"    // a folder for each zone
	Consoles = "/run/nereid/consoles" // a named pipe for each zone, and ConsoleLogs
	Metadata = "/run/nereid/metadata" // a file for each zone that started: its nspawn
	Logs     = "to"                   // below Consoles: symbolic link to the folder of the logs
)

// Names in a zone's folder.
const (
	hostFile    = "host.json"
	guestFile   = "metadata.json"
	insideDir   = "in"
	insideFile  = "zone.json"
	nowFile     = "now.json" // below insideDir: what was set in the zone that runs, or starts
	initFile    = "init"     // below insideDir: where Program is in the zone
	scriptName  = "user-script"
	startedFile = "started" // it ran since the agent left its files
	upFile      = "up"      // it is set up, by the nspawn whose process number this is
	errorFile   = "error"   // why the last start did not work
	enteredFile = "entered" // its time is when the unit became systemd-nspawn last
)

// Again is the argument of a zone's first program that has it bring a zone that runs from
// what was set in it to what is wanted now.
const Again = "again"

// Inner is the folder in a zone that has insideDir, read-only.
const Inner = "/run/nereid"

// InnerProgram is Program in a zone.
const InnerProgram = Inner + "/" + initFile

// Host is what is done on the server to start a zone.
type Host struct {
	UUID     string   `json:"uuid"`
	Brand    string   `json:"brand,omitempty"` // empty: a zone
	Dataset  string   `json:"dataset"`         // the root file system is in root/ below it
	Base     uint32   `json:"base"`            // first of the 65,536 user IDs that are the zone's
	Hostname string   `json:"hostname"`
	NICs     []NIC    `json:"nics,omitempty"`
	Init     string   `json:"init,omitempty"`        // program that the image names; empty: it is looked for
	Signal   string   `json:"stop_signal,omitempty"` // empty: what the init program wants
	Done     []string `json:"done,omitempty"`        // ids of requests that were carried out
}

// NIC is one that goes into a zone.
type NIC struct {
	MAC  string `json:"mac"`
	Name string `json:"name"` // inside
	MTU  int    `json:"mtu"`
}

// Inside is what is set in a zone before its init is executed.
type Inside struct {
	UUID      string            `json:"uuid,omitempty"`
	Hostname  string            `json:"hostname"`
	Domain    string            `json:"domain,omitempty"`
	NICs      []api.InstanceNIC `json:"nics,omitempty"`
	Resolvers []string          `json:"resolvers,omitempty"`
	Keys      string            `json:"root_authorized_keys,omitempty"`
	UserData  string            `json:"user_data,omitempty"`   // for cloud-init
	Script    bool              `json:"user_script,omitempty"` // there is one to run at each boot
	Run       api.ImageRun      `json:"run,omitzero"`
}

// Peer is the name, on the server, of the end of a NIC that goes into its zone.
// network.ZoneEnd is the same one.
func Peer(mac string) string {
	return "nz" + strings.ToLower(strings.NewReplacer(":", "", "-", "").Replace(mac))
}

// Port is the name of the end that stays; network.PortDevice is the same one.
func Port(mac string) string { return "np" + Peer(mac)[2:] }

// Leave leaves a zone's files, each of them as a whole.
func Leave(dir string, h Host, in Inside, g mdata.Guest) error {
	inner := filepath.Join(dir, insideDir)
	if err := os.MkdirAll(inner, 0o755); err != nil {
		return fmt.Errorf("leave files of zone %s: %w", h.UUID, err)
	}
	// What others see in the zone is theirs to read, whatever our umask is.
	for _, d := range []string{dir, inner} {
		if err := os.Chmod(d, 0o755); err != nil {
			return fmt.Errorf("leave files of zone %s: %w", h.UUID, err)
		}
	}
	for _, f := range []struct {
		path  string
		mode  os.FileMode
		owner uint32
		v     any
	}{
		{filepath.Join(inner, initFile), 0o755, 0, nil},
		{filepath.Join(inner, insideFile), 0o600, h.Base, in},
		{filepath.Join(dir, guestFile), 0o600, 0, g},
		{filepath.Join(dir, hostFile), 0o600, 0, h},
	} {
		if err := replace(f.path, f.mode, f.owner, f.v); err != nil {
			return fmt.Errorf("leave files of zone %s: %w", h.UUID, err)
		}
	}
	for _, name := range programs {
		if err := os.Symlink(initFile, filepath.Join(inner, name)); err != nil && !os.IsExist(err) {
			return fmt.Errorf("leave files of zone %s: %w", h.UUID, err)
		}
	}
	return nil
}

// LeaveHost leaves the files that an instance has which is no zone: what is kept of it in
// the run directory, and its metadata.
func LeaveHost(dir string, h Host, g mdata.Guest) error {
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		err = replace(filepath.Join(dir, guestFile), 0o600, 0, g)
	}
	if err == nil {
		err = replace(filepath.Join(dir, hostFile), 0o600, 0, h)
	}
	if err != nil {
		return fmt.Errorf("leave files of instance %s: %w", h.UUID, err)
	}
	return nil
}

// replace writes a file anew; without v it is an empty one, which stays when it is there:
// a program is mounted over it in the zone, and goes with it. owner is the zone's root for
// what is its to read; 0: whoever writes.
func replace(path string, mode os.FileMode, owner uint32, v any) error {
	var data []byte
	if v == nil {
		if _, err := os.Lstat(path); err == nil {
			return nil
		}
	} else {
		var err error
		if data, err = json.Marshal(v); err != nil {
			return err
		}
	}
	next := path + ".next"
	if err := os.WriteFile(next, data, mode); err != nil {
		return err
	}
	if err := os.Chmod(next, mode); err != nil {
		return err
	}
	if owner != 0 && os.Geteuid() == 0 {
		if err := os.Chown(next, int(owner), int(owner)); err != nil {
			return err
		}
	}
	return os.Rename(next, path)
}

// Read reads what Leave left for the server; fs.ErrNotExist when there is nothing.
func Read(dir string) (h Host, err error) {
	return h, read(filepath.Join(dir, hostFile), &h)
}

func read(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// begin has a zone started with what is wanted now, whatever is left for it meanwhile, and
// with those of its NICs that are there. It gives these.
func begin(dir string, h Host, there func(NIC) bool) ([]NIC, error) {
	var in Inside
	if err := read(filepath.Join(dir, insideDir, insideFile), &in); err != nil {
		return nil, err
	}
	in.NICs = slices.DeleteFunc(in.NICs, func(n api.InstanceNIC) bool {
		return !slices.ContainsFunc(h.NICs, func(of NIC) bool { return of.MAC == n.MAC && there(of) })
	})
	return in.of(h), Set(dir, h, in)
}

// of are the NICs of a zone that are set in it.
func (in Inside) of(h Host) []NIC {
	return slices.DeleteFunc(slices.Clone(h.NICs), func(n NIC) bool {
		return !slices.ContainsFunc(in.NICs, func(of api.InstanceNIC) bool { return of.MAC == n.MAC })
	})
}

// Up names the run of a zone that is set up; empty: it is not, or does not run.
func Up(dir string) string {
	data, err := os.ReadFile(filepath.Join(dir, upFile))
	if err != nil {
		return ""
	}
	return string(data)
}

// Now is what was set last in a zone that runs.
func Now(dir string) (in Inside, err error) {
	return in, read(filepath.Join(dir, insideDir, nowFile), &in)
}

// Set notes what was set in a zone.
func Set(dir string, h Host, in Inside) error {
	return replace(filepath.Join(dir, insideDir, nowFile), 0o600, h.Base, in)
}

// Log is the name of the log of what a zone printed, in the folder of the logs; the one
// before it has ".1" behind it.
func Log(uuid string) string { return uuid + logSuffix }

const logSuffix = ".log"

// ConsolesUnit is the unit that keeps what zones print, by KeepConsoles.
const ConsolesUnit = "nereid-consoles.service"

// KeepLogs has what zones print, and what they change of their metadata, kept in a folder.
func KeepLogs(folder string) error {
	if err := os.MkdirAll(filepath.Join(folder, writtenName), 0o700); err != nil {
		return fmt.Errorf("keep what zones print: %w", err)
	}
	link := filepath.Join(Consoles, Logs)
	if to, err := os.Readlink(link); err == nil && to == folder {
		return nil
	}
	if err := os.MkdirAll(Consoles, 0o700); err != nil {
		return fmt.Errorf("keep what zones print: %w", err)
	}
	next := link + ".next"
	err := os.Remove(next)
	if err == nil || os.IsNotExist(err) {
		err = os.Symlink(folder, next)
	}
	if err == nil {
		err = os.Rename(next, link)
	}
	if err != nil {
		return fmt.Errorf("keep what zones print: %w", err)
	}
	return nil
}

// MetadataUnit is the unit that answers what zones ask of their metadata, by Answerer.
const MetadataUnit = "nereid-metadata.service"

// Forget removes what is kept of a zone outside of its folder: what it printed, and what
// it changed of its metadata.
func Forget(uuid string) error {
	errs := []error{Changes{WrittenDir()}.Forget(uuid)}
	log := filepath.Join(Consoles, Logs, Log(uuid))
	for _, path := range []string{filepath.Join(Metadata, uuid), filepath.Join(Consoles, uuid), log, log + ".1"} {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Started reports whether the zone ran since the mark was removed last.
func Started(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, startedFile))
	return err == nil
}

// Entered is when the zone's unit became systemd-nspawn last; the zero time where that
// is not known.
func Entered(dir string) time.Time {
	st, err := os.Stat(filepath.Join(dir, enteredFile))
	if err != nil {
		return time.Time{}
	}
	return st.ModTime()
}

// Unmark removes the mark that a zone ran: what ends it from here on is not itself.
func Unmark(dir string) error {
	if err := os.Remove(filepath.Join(dir, startedFile)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// Failed keeps why a zone that ran has failed. It goes with the next start.
func Failed(dir, why string) error {
	if err := os.WriteFile(filepath.Join(dir, errorFile), []byte(why), 0o600); err != nil {
		return fmt.Errorf("keep why the zone failed: %w", err)
	}
	return nil
}

// Reason is why the last start did not work, as far as a command of this package knows.
func Reason(dir string) string {
	data, err := os.ReadFile(filepath.Join(dir, errorFile))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data[:min(len(data), 1000)]))
}
