package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"nereid/api"
)

// A decision as a head node words it: long, with the command that makes it.
const (
	longUUID   = "4c4c4544-0042-3510-8052-b4c04f4e4d32"
	longDecide = "two machines claim this UUID, one with 52:54:00:00:00:10, 52:54:00:00:00:11 and one with 52:54:00:00:00:20; " +
		"decide with: " + longCommand + ", or leave it"
	longCommand = "nereid server approve " + longUUID
	longRule    = `FROM tag "role" = "web" TO vm 11111111-1111-4111-8111-111111111111 ALLOW tcp (PORT 80 AND PORT 443) PRIORITY 7`
	longStamp   = "20261122T101500Z"
)

// TestWidth shows every list, table and card with long values on a terminal of 80
// columns, one of 120 and elsewhere: no line is wider than the terminal, nothing
// is cut, and elsewhere each row is one line.
func TestWidth(t *testing.T) {
	socket := serveLong(t)
	rules := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(rules, []byte(longRule+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const owner = "930896af-bf8c-48d4-885c-6573a94b1853"
	shown := map[string]bool{}
	for _, line := range []string{
		"server list", "server list --wide", "server get cn0", "server nics cn0", "server boot-log cn0", "server boot-log cn0 --list",
		"server setup cn0 --plan",
		"platform list", "platform get " + longStamp, "platform key list", "datacenter show", "token list",
		"instance list", "instance list --unexpected", "instance get web0", "instance explain web0", "instance audit web0", "instance settings",
		"instance tag list web0", "instance disk list vm0", "instance snapshot list web0", "instance snapshot get web0 a", "instance snapshot schedule web0", "instance get vm0", "instance metadata list web0",
		"package list", "package get sample-512M", "image list", "image get debian",
		"explain --mac 52:54:00:00:00:10",
		"nictag list", "nictag get external", "network list", "network get external", "network trace 10.0.0.1 10.0.0.2",
		"pool list", "pool get external", "ip list external", "ip get external 10.0.0.1", "ip search 10.0.0.1",
		"nic list", "nic get 02:4e:52:00:00:01", "nic search 02:4e:52:00:00:01", "bond list cn0", "bond get cn0 bond0",
		"fabric settings", "fabric map 7340", "fabric vlan list " + owner, "fabric vlan get " + owner + " 2",
		"fabric network list " + owner + " 2", "fabric network get " + owner + " 2 web",
		"fabric forward list " + owner, "fabric forward get " + owner + " " + longUUID,
		"firewall list", "firewall get " + longUUID, "firewall check --file " + rules, "firewall check " + longRule,
	} {
		t.Run(line, func(t *testing.T) {
			for _, columns := range []int{80, 120, 0} {
				args := strings.Fields(line)
				if rest, ok := strings.CutPrefix(line, "firewall check FROM"); ok {
					args = []string{"firewall", "check", "FROM" + rest}
				}
				var errs bytes.Buffer
				var cmd *cobra.Command
				out := onTerminal(t, columns, func(stdout io.Writer) {
					a := newApp(strings.NewReader(""), stdout, &errs)
					defer a.close()
					a.getenv = func(name string) string {
						return map[string]string{"NEREID_SERVER": socket, "NO_COLOR": "1"}[name]
					}
					root := a.rootCommand()
					root.SetArgs(args)
					var err error
					if cmd, err = root.ExecuteContextC(t.Context()); err != nil && exitCode(err) != exitRefused {
						t.Errorf("%v\n%s", err, errs.String())
					}
				})
				shown[strings.TrimPrefix(cmd.CommandPath(), "nereid ")] = true
				checkWidth(t, columns, out)
				if t.Failed() {
					t.Fatalf("at %d columns:\n%s", columns, out)
				}
			}
		})
	}
	eachCommand(newApp(nil, nil, nil).rootCommand(), func(c *cobra.Command) {
		shows := slices.Contains([]string{"list", "get", "show", "search", "map", "nics", "trace", "boot-log", "explain", "check", "settings"}, c.Name())
		if path := strings.TrimPrefix(c.CommandPath(), "nereid "); shows && c.Runnable() && !shown[path] {
			t.Errorf("nereid %s shows something, and is not tried here", path)
		}
	})
}

var wideWord = regexp.MustCompile(`\S{60,}`)

func checkWidth(t *testing.T, columns int, out string) {
	t.Helper()
	for line := range strings.SplitSeq(out, "\n") {
		if columns > 0 && runes(line) > columns && !wideWord.MatchString(line) {
			t.Errorf("%d columns: %s", runes(line), line)
		}
		if columns == 0 && strings.HasPrefix(line, "        ") && !strings.Contains(line, "s ") {
			t.Errorf("a row goes on in another line: %q", line)
		}
	}
	if strings.Contains(out, "...") {
		t.Error("something is cut")
	}
	whole := strings.Join(strings.Fields(out), " ")
	for _, s := range []string{longDecide, longRule} {
		if strings.Contains(whole, s[:20]) && !strings.Contains(whole, s) {
			t.Errorf("not whole: %s", s)
		}
	}
	if strings.Count(whole, longCommand) != strings.Count(out, longCommand) {
		t.Error("a command is on two lines")
	}
}

// serveLong answers every request of the program with values as long as they may
// get.
func serveLong(t *testing.T) string {
	t.Helper()
	list := func(v any) any { return map[string]any{"items": []any{long(v), long(v)}, "next": ""} }
	mux := http.NewServeMux()
	for pattern, v := range map[string]any{
		"GET /v1/servers": list(api.Server{}), "GET /v1/servers/{id}": long(api.Server{}), "GET /v1/servers/{id}/boots": list(api.Boot{}),
		"GET /v1/servers/{id}/nic-tags": list(api.NICTagUse{}), "GET /v1/servers/{id}/bonds": list(api.Bond{}), "GET /v1/servers/{id}/bonds/{name}": long(api.Bond{}),
		"GET /v1/platforms": list(api.Platform{}), "GET /v1/platforms/{stamp}": long(api.Platform{}), "GET /v1/platform-keys": list(api.PlatformKey{}),
		"GET /v1/datacenter": long(api.Datacenter{}), "GET /v1/tokens": list(api.Token{}), "POST /v1/explain": long(api.Explanation{}),
		"GET /v1/instances": list(api.Instance{}), "GET /v1/instances/{id}": long(api.Instance{}), "GET /v1/unexpected-instances": list(api.UnexpectedInstance{}),
		"GET /v1/instances/{id}/placement": long(api.Placement{}), "GET /v1/instances/{id}/timeline": long(api.InstanceTimeline{}), "GET /v1/instances/{id}/audit": list(api.InstanceAudit{}), "GET /v1/instance-settings": long(api.InstanceSettings{}),
		"GET /v1/instances/{id}/snapshots": list(api.Snapshot{}), "GET /v1/instances/{id}/snapshots/{snapshot}": long(api.Snapshot{}),
		"GET /v1/images": list(api.Image{}), "GET /v1/images/{id}": long(api.Image{}),
		"GET /v1/packages": list(api.Package{}), "GET /v1/packages/{id}": long(api.Package{}),
		"GET /v1/nic-tags": list(api.NICTag{}), "GET /v1/nic-tags/{id}": long(api.NICTag{}),
		"GET /v1/networks": list(api.Network{}), "GET /v1/networks/{id}": long(api.Network{}), "POST /v1/network-trace": long(api.Trace{}),
		"GET /v1/network-pools": list(api.NetworkPool{}), "GET /v1/network-pools/{id}": long(api.NetworkPool{}),
		"GET /v1/networks/{id}/ips": list(api.IPAddress{}), "GET /v1/networks/{id}/ips/{ip}": long(api.IPAddress{}), "GET /v1/search/ips": list(api.IPAddress{}),
		"GET /v1/nics": list(api.NetworkNIC{}), "GET /v1/nics/{id}": long(api.NetworkNIC{}), "GET /v1/search/nics": list(api.NetworkNIC{}),
		"GET /v1/fabric-settings": long(api.FabricSettings{}), "GET /v1/fabrics/vni/{vni}/map": long(api.FabricMap{}),
		"GET /v1/accounts/{o}/fabric/vlans": list(api.FabricVLAN{}), "GET /v1/accounts/{o}/fabric/vlans/{v}": long(api.FabricVLAN{}),
		"GET /v1/accounts/{o}/fabric/vlans/{v}/networks": list(api.Network{}), "GET /v1/accounts/{o}/fabric/vlans/{v}/networks/{n}": long(api.Network{}),
		"GET /v1/accounts/{o}/fabric/forwards": list(api.FabricForward{}), "GET /v1/accounts/{o}/fabric/forwards/{f}": long(api.FabricForward{}),
		"GET /v1/firewall/rules": list(api.FirewallRule{}), "GET /v1/firewall/rules/{r}": long(api.FirewallRule{}),
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(v)
		})
	}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return socket
}

// long fills a value of the API.
func long(v any) any {
	p := reflect.New(reflect.TypeOf(v)).Elem()
	stretch(p, "")
	return p.Interface()
}

// stretch fills a value by the name that it has in JSON.
func stretch(v reflect.Value, name string) {
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = time.Date(2026, 11, 22, 10, 15, 0, 0, time.UTC)
		return
	case *netip.Addr:
		*x = netip.MustParseAddr("10.199.199.107")
		return
	case *netip.Prefix:
		*x = netip.MustParsePrefix("10.199.199.107/24")
		return
	case *api.Verdict:
		*x = api.VerdictAnswer
		return
	case *api.ServerState:
		*x = api.StateSettingUp
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		stretch(v.Elem(), name)
	case reflect.Struct:
		for i := range v.NumField() {
			tag, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			stretch(v.Field(i), tag)
		}
		if d, ok := v.Addr().Interface().(*api.Disk); ok {
			d.SizeBytes, d.InUseBy, d.Content, d.ReadOnly, d.Removable = 16<<40, "", "", false, false
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			stretch(v.Index(i), name)
		}
		if v.Type() == reflect.TypeFor[[]api.Disk]() {
			v.Index(1).FieldByName("Name").SetString("nvme1n1")
			v.Index(1).FieldByName("Serial").SetString("S64GNE0R701235")
		}
	case reflect.Map:
		if v.Type().Key().Kind() == reflect.String {
			el := reflect.New(v.Type().Elem()).Elem()
			stretch(el, name)
			v.Set(reflect.MakeMap(v.Type()))
			v.SetMapIndex(reflect.ValueOf("router_not_internet_nat"), el)
		}
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		n := int64(4094)
		if strings.Contains(name, "bytes") {
			n = 8 << 40
		}
		v.SetInt(n)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(255)
	case reflect.Float64:
		v.SetFloat(12.3)
	case reflect.String:
		v.SetString(longText(name))
	}
}

func longText(name string) string {
	switch {
	case slices.Contains([]string{"hostname", "where"}, name):
		return "rack12-compute-node-07"
	case strings.Contains(name, "uuid"), name == "server":
		return longUUID
	case strings.Contains(name, "mac"):
		return "52:54:00:00:00:10"
	case strings.Contains(name, "sha256"):
		return strings.Repeat("0123456789abcdef", 4)
	case slices.Contains([]string{"description", "reason", "state_reason", "alerts", "problems", "why", "change", "detail", "error", "phase", "unexpected"}, name):
		return longDecide
	case name == "rule":
		return longRule
	case slices.Contains([]string{"stamp", "platform", "next", "running", "assigned", "previous", "failed", "default_platform"}, name):
		return longStamp
	case slices.Contains([]string{"ip", "underlay", "gateway", "addresses", "provision_start_ip", "provision_end_ip", "used", "down", "resolvers"}, name):
		return "10.199.199.107"
	case strings.HasPrefix(name, "nic_tags"), name == "nic_tag", name == "id":
		return "external_rack12"
	case name == "subnet", name == "address":
		return "10.199.196.0/22"
	case name == "key":
		return "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
	case name == "kernel_version", name == "kernel":
		return "6.12.118+deb13-amd64"
	case name == "model", name == "driver":
		return "SAMSUNG MZ7L33T8HBLT-00A07"
	case name == "name":
		return "nvme0n1"
	case name == "health":
		return "DEGRADED"
	}
	return "provisioning"
}
