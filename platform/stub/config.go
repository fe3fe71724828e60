package stub

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"nereid/api"
	"nereid/images"
)

// maxConfig is the most bytes a boot configuration may have.
const maxConfig = 64 << 10

var (
	stampRE  = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z$`)
	bootIDRE = regexp.MustCompile(`^[a-z2-7]{1,64}$`)
	diskRE   = regexp.MustCompile(`^[a-z][a-z0-9]{1,31}$`)
	hostRE   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?$`)
)

// readConfig reads the boot configuration from a file of the initrd.
func readConfig(path string) (api.BootConfig, []byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return api.BootConfig{}, nil, problem("This boot has no configuration",
			path+" is not in the initrd, so config.cpio was not loaded by iPXE",
			"if this server comes here again, look at its boot with: nereid server boot-log", nil)
	}
	if err != nil {
		return api.BootConfig{}, nil, err
	}
	c, err := parseConfig(b)
	return c, b, err
}

// parseConfig decodes and validates a boot configuration. Fields it does not
// know are the agent's business.
func parseConfig(b []byte) (api.BootConfig, error) {
	var c api.BootConfig
	bad := func(err error) (api.BootConfig, error) {
		return api.BootConfig{}, problem("The boot configuration cannot be used", err.Error(),
			"the head node and the platform may be of different versions", err)
	}
	if len(b) > maxConfig {
		return bad(fmt.Errorf("it has %d bytes, more than %d", len(b), maxConfig))
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return bad(err)
	}
	if !bootIDRE.MatchString(c.BootID) {
		return bad(fmt.Errorf("boot_id %.80q: want lower-case base32", c.BootID))
	}
	if !stampRE.MatchString(c.Platform) {
		return bad(fmt.Errorf("platform %.80q: want YYYYMMDDTHHMMSSZ", c.Platform))
	}
	if _, err := images.ParsePublicKey(c.PlatformKey); err != nil {
		return bad(fmt.Errorf("platform_key: %w", err))
	}
	if u, err := url.Parse(c.BootServer); err != nil || u.Scheme != "http" || net.ParseIP(u.Hostname()) == nil {
		return bad(fmt.Errorf("boot_server %.80q: want http and an address", c.BootServer))
	}
	if _, err := net.ParseMAC(c.Network.MAC); err != nil {
		return bad(fmt.Errorf("network.mac: %w", err))
	}
	if !c.Network.Address.IsValid() {
		return bad(errors.New("network.address: want an address with prefix length"))
	}
	if c.Hostname != "" && !hostRE.MatchString(c.Hostname) {
		return bad(fmt.Errorf("hostname %.80q: want letters, digits, dots and dashes", c.Hostname))
	}
	return c, nil
}

// cmdline is what the stub reads of the kernel's command line.
type cmdline struct {
	disk      string            // nereid.root=disk:NAME: where the layers are
	blacklist map[string]bool   // modprobe.blacklist=a,b
	params    map[string]string // module -> its parameters, from module.param=value
}

// parseCmdline reads /proc/cmdline. Quotes are not supported but inside a module's parameters.
func parseCmdline(line string) (cmdline, error) {
	c := cmdline{blacklist: map[string]bool{}, params: map[string]string{}}
	for _, arg := range strings.Fields(line) {
		key, value, _ := strings.Cut(arg, "=")
		module, param, dotted := strings.Cut(key, ".")
		switch {
		case key == "nereid.root":
			name, ok := strings.CutPrefix(value, "disk:")
			if !ok || !diskRE.MatchString(name) {
				return c, problem("The kernel argument "+arg+" cannot be used", "it names no disk", "want nereid.root=disk:vdb, or leave it out to boot from the network", nil)
			}
			c.disk = filepath.Join("/dev", name)
		case key == "modprobe.blacklist":
			for m := range strings.SplitSeq(value, ",") {
				c.blacklist[moduleName(m)] = true
			}
		case dotted && module != "nereid" && module != "systemd" && param != "":
			name := moduleName(module)
			c.params[name] = strings.TrimSpace(c.params[name] + " " + param + strings.TrimPrefix(arg, key))
		}
	}
	return c, nil
}
