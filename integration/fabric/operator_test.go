//go:build vm || netns

package fabric

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"nereid/api"
	"nereid/integration/lab/labtest"
)

const (
	alice = "a11ce000-0000-4000-8000-000000000001"
	bob   = "b0b00000-0000-4000-8000-000000000002"
)

// operator operates a rack with the operator's program.
type operator struct{ *labtest.Rack }

// nereid runs the program.
func (o operator) nereid(args ...string) string {
	o.T.Helper()
	cmd := o.Exec(o.T.Context(), filepath.Join(o.Bin, "nereid"), append([]string{"--server", o.Socket()}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		o.T.Fatalf("nereid %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// refused runs the program, which must end with a status, and gives what it printed.
func (o operator) refused(status int, args ...string) string {
	o.T.Helper()
	cmd := o.Exec(o.T.Context(), filepath.Join(o.Bin, "nereid"), append([]string{"--server", o.Socket()}, args...)...)
	out, _ := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != status {
		o.T.Errorf("nereid %s: status %d, want %d\n%s", strings.Join(args, " "), got, status, out)
	}
	return string(out)
}

// read runs the program and reads what it prints as JSON.
func (o operator) read(into any, args ...string) {
	o.T.Helper()
	if err := json.Unmarshal([]byte(o.nereid(append(args, "-o", "json")...)), into); err != nil {
		o.T.Fatalf("nereid %s: %v", strings.Join(args, " "), err)
	}
}

// network makes a network of an account's fabric, and gives its UUID.
func (o operator) network(owner, vlan, name, subnet, gateway string, more ...string) string {
	o.T.Helper()
	o.nereid(append([]string{"fabric", "network", "create", owner, vlan, name, "--subnet", subnet, "--gateway", gateway}, more...)...)
	var n api.Network
	o.read(&n, "fabric", "network", "get", owner, vlan, name)
	return n.UUID
}

// createNIC makes the NIC of an instance, which is named after its first address.
// networks are of the form NETWORK=ADDRESS.
func (o operator) createNIC(owner, server string, networks ...string) api.NetworkNIC {
	o.T.Helper()
	_, ip, _ := strings.Cut(networks[0], "=")
	instance := fmt.Sprintf("%s-0000-4000-9000-%s", owner[:8], regexp.MustCompile(`[^0-9a-f]`).ReplaceAllString(ip+"000000000000", "")[:12])
	args := []string{"nic", "create", "--on", server, "--owner", owner, "--primary", "--belongs-to-type", "other", "--belongs-to", instance}
	for _, n := range networks {
		args = append(args, "--network", n)
	}
	var n api.NetworkNIC
	o.read(&n, args...)
	return n
}

// namespace is what stands in for the instance that has a NIC.
func namespace(n api.NetworkNIC) string { return "nic-" + strings.ReplaceAll(n.MAC, ":", "") }
