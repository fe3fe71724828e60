package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"nereid/api"
	"nereid/integration/lab"
)

// What is outside of the rack: the router of the external network, and an address behind
// it (RFC 5737).
const (
	gateway = "203.0.113.1"
	outside = "198.51.100.1"
)

const (
	operators = "0be4a700-0000-4000-8000-000000000000" // account of the servers' own addresses
	account   = "930896af-bf8c-48d4-885c-6573a94b1853"
)

// zones goes on where the servers run: networks, an image, and two zones on two servers
// that reach each other and what is outside.
func (d *demo) zones(ctx context.Context, image string, servers []*lab.Machine) error {
	if image == "" {
		return errors.New("want --image, the directory of an image of zones: nereid image build debian --out DIR")
	}
	begun := time.Now()
	d.say("networks: an underlay that carries fabrics, and an external one for NAT")
	lines := [][]string{
		{"nictag", "create", "underlay", "--mtu", "9000"},
		{"nictag", "create", "external"},
		{"network", "create", "underlay", "--nic-tag", "underlay", "--subnet", "10.77.0.0/24"},
		{"network", "create", "external", "--nic-tag", "external", "--subnet", "203.0.113.0/24", "--gateway", gateway, "--start", "203.0.113.10"},
		{"fabric", "settings", "--underlay-nic-tag", "underlay", "--nat-network", "external"},
	}
	for _, m := range servers {
		lines = append(lines,
			[]string{"nictag", "provide", m.Spec.Name, m.Spec.DataMACs[0], "underlay"},
			[]string{"nictag", "provide", m.Spec.Name, m.Spec.DataMACs[1], "external"},
			[]string{"nic", "create", "--network", "underlay", "--on", m.Spec.Name, "--underlay", "--owner", operators})
	}
	if err := d.all(ctx, lines); err != nil {
		return err
	}
	d.say("an image, and a fabric of account %s", account)
	if err := d.all(ctx, [][]string{
		{"image", "import", image},
		{"fabric", "vlan", "create", account, "2", "--name", "web"},
		{"fabric", "network", "create", account, "2", "web", "--subnet", "192.168.7.0/24", "--gateway", "192.168.7.1", "--internet-nat"},
	}); err != nil {
		return err
	}
	d.say("two zones that are not to be on one server")
	create := []string{"instance", "create", "web", "--count", "2", "--owner", account, "--image", "debian", "--package", "sample-128M",
		"--network", "web", "--affinity", "instance!=web*", "--wait"}
	if err := d.all(ctx, [][]string{create, {"instance", "list"}, {"instance", "explain", "web-2"}}); err != nil {
		return err
	}
	one, err := d.rack.Client().Instances().Get(ctx, "web-1")
	if err != nil {
		return err
	}
	two, err := d.rack.Client().Instances().Get(ctx, "web-2")
	if err != nil {
		return err
	}
	if one.Server == two.Server {
		return fmt.Errorf("both zones are on server %s", one.Server)
	}
	d.say("web-1 reaches web-2 over the fabric, and what is outside by NAT")
	if err := d.all(ctx, [][]string{
		{"instance", "exec", "web-1", "--", "ping", "-c", "3", "-w", "60", addressOf(two)},
		{"instance", "exec", "web-2", "--", "ping", "-c", "3", "-w", "60", outside},
		{"instance", "exec", "web-1", "--", "sh", "-c", "hostname; grep PRETTY /etc/os-release; ip -br -4 addr; cat /proc/self/uid_map"},
	}); err != nil {
		return err
	}
	d.say("where the time of their creates went")
	if err := d.all(ctx, [][]string{{"instance", "timeline", "web-1"}, {"instance", "timeline", "web-2"}}); err != nil {
		return err
	}
	d.say("networks, image and zones took %s", time.Since(begun).Round(time.Second))
	return nil
}

// all runs commands of the operator's program, until one fails.
func (d *demo) all(ctx context.Context, lines [][]string) error {
	for _, args := range lines {
		if err := d.nereid(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// addressOf is the first address of an instance.
func addressOf(i api.Instance) string {
	for _, n := range i.NICs {
		for _, a := range n.Addresses {
			ip, _, _ := strings.Cut(a.Address, "/")
			return ip
		}
	}
	return ""
}

// typed is a command line as one types it into a shell.
func typed(args []string) string {
	var words []string
	for _, a := range args {
		if strings.ContainsAny(a, " ;*!'$") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}
