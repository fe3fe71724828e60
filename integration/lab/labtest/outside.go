package labtest

import (
	"context"
	"path/filepath"
	"strings"

	"nereid/api"
	"nereid/integration/lab"
)

// Outside gives the rack's servers a network to the outside, "external", on their second
// data NIC, and NAT by it, until the test ends. The rack is its router, and has the address
// that Outside gives.
func (r *Rack) Outside() (address string) {
	r.T.Helper()
	const gateway, outside = "198.51.100.1", "192.0.2.99"
	for _, a := range []string{gateway + "/24", outside + "/32"} {
		if out, err := r.Exec(r.T.Context(), "ip", "addr", "add", a, "dev", "ext0").CombinedOutput(); err != nil {
			r.T.Fatalf("%v: %s", err, out)
		}
		r.T.Cleanup(func() { r.Exec(context.WithoutCancel(r.T.Context()), "ip", "addr", "del", a, "dev", "ext0").Run() })
	}
	r.nereid("nictag", "create", "external")
	r.Undo("nictag", "delete", "external", "--yes")
	r.nereid("network", "create", "external", "--nic-tag", "external", "--subnet", "198.51.100.0/24", "--gateway", gateway, "--start", "198.51.100.10")
	r.Undo("network", "delete", "external", "--yes")
	for _, m := range r.Machines() {
		r.nereid("nictag", "provide", m.Spec.Name, m.Spec.DataMACs[1], "external")
		r.Undo("nictag", "provide", m.Spec.Name, m.Spec.DataMACs[1], "--yes")
	}
	r.T.Cleanup(func() { r.dropNAT("external") })
	r.nereid("fabric", "settings", "--nat-network", "external")
	r.Undo("fabric", "settings", "--nat-network", "", "--yes")
	return outside
}

// Answers waits until an address answers, asked in a server by what runs a program in
// another network namespace. The ways outside come in sets, which no version of the spec
// that is applied speaks of.
func (r *Rack) Answers(m *lab.Machine, run, address string) {
	r.T.Helper()
	r.Wait(m, "hears "+address+" by "+run, func(api.Server) bool {
		return strings.Contains(r.Shell(m, run+" ping -n -c 1 -W 3 "+address+" > /dev/null 2>&1 && echo yes || true"), "yes")
	})
}

// dropNAT deletes the NICs that NAT made on servers, for their addresses on a NIC tag.
func (r *Rack) dropNAT(tag string) {
	ctx := context.WithoutCancel(r.T.Context())
	for n, err := range r.Client().NICs().All(ctx, nil) {
		if err == nil && n.NICTag == tag && n.BelongsToType == api.BelongsToServer {
			err = r.Client().NICs().Delete(ctx, n.MAC)
		}
		if err != nil {
			r.T.Errorf("delete NAT's NICs: %v", err)
		}
	}
}

// nereid runs the operator's program.
func (r *Rack) nereid(args ...string) {
	r.T.Helper()
	cmd := r.Exec(r.T.Context(), filepath.Join(r.Bin, "nereid"), append([]string{"--server", r.Socket()}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.T.Fatalf("nereid %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
