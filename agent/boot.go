package agent

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"nereid/api"
)

// ErrNotBooted says that the machine has no boot configuration.
var ErrNotBooted = errors.New("this machine was not booted by Nereid")

// ReadBoot reads the boot configuration the stub left in the run directory.
func ReadBoot(dir string) (api.BootConfig, error) {
	path := filepath.Join(dir, bootFile)
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return api.BootConfig{}, fmt.Errorf("%w: there is no %s; boot it over the network from a head node", ErrNotBooted, path)
	}
	if err != nil {
		return api.BootConfig{}, fmt.Errorf("read boot configuration: %w", err)
	}
	c, err := parseBoot(data)
	if err != nil {
		return api.BootConfig{}, fmt.Errorf("read boot configuration %s: %w; reboot this server to get a new one", path, err)
	}
	return c, nil
}

// ServerUUID is who this server is: what the head node said in this boot, or else
// what its boot configuration says, or else what its firmware does. What cannot be
// read was not said: the head node says it again.
func ServerUUID(dir string, c api.BootConfig, smbios string) string {
	b, err := readFile(filepath.Join(dir, uuidFile))
	if err != nil {
		b = nil
	}
	return cmp.Or(strings.TrimSpace(string(b)), c.UUID, smbios)
}

// parseBoot judges a boot configuration. Errors never show its token.
func parseBoot(data []byte) (api.BootConfig, error) {
	var c api.BootConfig
	if err := json.Unmarshal(data, &c); err != nil {
		var syn *json.SyntaxError
		if errors.As(err, &syn) {
			return c, fmt.Errorf("not JSON at byte %d", syn.Offset)
		}
		var typ *json.UnmarshalTypeError
		if errors.As(err, &typ) {
			return c, fmt.Errorf("field %s has the wrong type", typ.Field)
		}
		return api.BootConfig{}, errors.New("not a boot configuration")
	}
	u, err := url.Parse(c.API)
	switch {
	case c.BootID == "":
		return c, errors.New("boot_id is missing")
	case err != nil || u.Scheme != "https" || u.Hostname() == "":
		return c, errors.New("api is not an https URL")
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return c, errors.New("api has more than scheme, host and path")
	}
	if sum, err := hex.DecodeString(c.CASHA256); err != nil || len(sum) != 32 {
		return c, errors.New("ca_sha256 is not a SHA-256 digest")
	}
	return c, nil
}

// stubTimes is what the stub wrote to stub.json: seconds of the kernel's
// monotonic clock.
type stubTimes struct {
	Stub       float64 `json:"stub_s"`
	Root       float64 `json:"root_s"`
	SwitchRoot float64 `json:"switch_root_s"`
}

func parseStub(data []byte) (stubTimes, error) {
	var t stubTimes
	if err := json.Unmarshal(data, &t); err != nil {
		return stubTimes{}, fmt.Errorf("parse stub times: %w", err)
	}
	for _, s := range []float64{t.Stub, t.Root, t.SwitchRoot} {
		if s < 0 || s > 86400 {
			return stubTimes{}, fmt.Errorf("parse stub times: %g s: want 0 to 86400", s)
		}
	}
	return t, nil
}

// timings puts together when this boot reached what. They are facts of the boot,
// not of the agent's process: a restarted agent finds them in the run directory.
func (a *Agent) timings(ctx context.Context, started time.Duration) api.BootTimings {
	var t api.BootTimings
	path := filepath.Join(a.Dir, timingsFile)
	if ok, err := readJSON(path, &t); err != nil {
		a.Log.Warn("read boot timings", "err", err)
	} else if ok {
		return t
	}
	data, err := readFile(filepath.Join(a.Dir, stubFile))
	if err == nil {
		var s stubTimes
		if s, err = parseStub(data); err == nil {
			t.Stub, t.SwitchRoot = s.Stub, s.SwitchRoot
		}
	}
	if err != nil {
		a.Log.Warn("read the stub's timings", "err", err)
	}
	if t.Systemd, err = a.Power.Started(ctx); err != nil {
		a.Log.Warn("ask when systemd started", "err", err)
	}
	t.Agent = started.Seconds()
	if err := writeJSON(path, t); err != nil {
		a.Log.Warn("keep boot timings", "err", err)
	}
	return t
}
