package inventory

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"nereid/api"
	"nereid/headnode/store"
)

// row is one line of the table of docs/boot.md.
type row struct {
	server, key, boot, uuid, others []string
	is, decide                      string
}

// documented reads the table of docs/boot.md, so that it cannot say anything else
// than what is tested.
func documented(t *testing.T) []row {
	t.Helper()
	b, err := os.ReadFile("../../docs/boot.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(b), "| server | key | boot MAC | UUID | other MACs | the machine is | you decide with |\n|---|---|---|---|---|---|---|\n")
	if !found {
		t.Fatal("docs/boot.md has no table of who a machine is")
	}
	var rows []row
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 7 {
			break
		}
		words := func(i int) []string { return strings.Split(strings.TrimSpace(cells[i]), ", ") }
		rows = append(rows, row{words(0), words(1), words(2), words(3), words(4), strings.TrimSpace(cells[5]), strings.TrimSpace(cells[6])})
	}
	return rows
}

func (r row) matches(server, key, boot, uuid, others string) bool {
	has := func(words []string, w string) bool { return slices.Contains(words, w) || words[0] == "any" }
	return has(r.server, server) && has(r.key, key) && has(r.boot, boot) && has(r.uuid, uuid) && has(r.others, others)
}

const (
	theServer   = "the server, as before"
	theOther    = "the other server, with another key"
	otherKeyed  = "the server, with another key"
	aNewcomer   = "a newcomer"
	claimsOther = "a newcomer that claims the other server"
	claimsIt    = "a newcomer that claims the server"
	bothHeld    = "a newcomer that claims the server, both held"
)

// rack is a store with two known servers, and what an operator had set of the first.
type rack struct {
	*testing.T
	st      store.Store
	syncing bool
}

const macX, macY, macZ = "3c:ec:ef:00:00:1a", "3c:ec:ef:00:00:1c", "3c:ec:ef:00:00:1d"

// newRack makes the first server stand as the table calls it; the second one is
// set up and silent.
func newRack(t *testing.T, standing string) *rack {
	k := &rack{T: t, st: newStore(t), syncing: standing == "syncs"}
	k.letIn(uuidB, "other", macC, macY)
	k.pin(uuidB, "other")
	enrol(t, k.st, uuidA, "boot-its", "its", macA, macX)
	do := func(fn func(store.Tx, *Record) error) {
		t.Helper()
		if err := on(t, k.st, uuidA, fn); err != nil {
			t.Fatal(err)
		}
	}
	do(func(tx store.Tx, r *Record) error { return Rename(tx, r, "cn0") })
	switch standing {
	case "new":
		do(approve(""))
	case "rejected":
		do(Reject)
	case "pending":
	default:
		k.letIn(uuidA, "its", macA, macX)
	}
	if standing == "syncs" || standing == "pinned" {
		do(func(tx store.Tx, r *Record) error { return AskSetup(tx, r, api.SetupSpec{Layout: "mirror"}) })
		k.pin(uuidA, "its")
	}
	return k
}

func (k *rack) letIn(uuid, key string, macs ...string) {
	k.Helper()
	enrol(k.T, k.st, uuid, "boot-"+key, key, macs...)
	if err := on(k.T, k.st, uuid, approve("")); err != nil {
		k.Fatal(err)
	}
	if out := enrol(k.T, k.st, uuid, "boot-"+key, key, macs...); !out.Granted {
		k.Fatalf("let in: %+v", out)
	}
}

func (k *rack) pin(uuid, key string) {
	k.Helper()
	update(k.T, k.st, func(tx store.Tx) error {
		_, err := Observe(tx, uuid, Sync{Key: key, Request: api.SyncRequest{Report: api.Report{BootID: "boot-" + key, Setup: &api.SetupReport{Complete: true}, Pools: []api.Pool{{Health: "ONLINE"}}}}})
		return err
	})
}

// enrol is an enrolment while the first server's key syncs, or not.
func (k *rack) enrol(key, boot, uuid string, others ...string) Outcome {
	k.Helper()
	info := api.Sysinfo{UUID: uuid, Product: "machine under test"}
	for _, m := range append([]string{boot}, others...) {
		info.NICs = append(info.NICs, api.NIC{MAC: m})
	}
	return enrolAs(k.T, k.st, Enrolment{BootID: "boot-new", BootMAC: boot, Started: t0, Sysinfo: info, Key: key,
		Syncing: func(r Record) bool { return r.UUID == uuidA && k.syncing }})
}

// shown is the state of a server.
func (k *rack) shown(uuid string) (state api.ServerState, why string, alerts []string) {
	k.Helper()
	update(k.T, k.st, func(tx store.Tx) error {
		r, err := Get(tx, uuid)
		if err != nil {
			return err
		}
		v := View{}
		if v.Rivals, err = Claimants(tx, uuid); err != nil {
			return err
		}
		if k.syncing && uuid == uuidA {
			v.LastSeen = t0
		}
		o, err := GetObserved(tx, uuid)
		state, why = State(t0, r, o, v)
		alerts = Alerts(r, o, v.Rivals)
		shared, serr := SharedBootMAC(tx, r)
		if shared != "" {
			alerts = append(alerts, shared)
		}
		return errors.Join(err, serr)
	})
	return state, why, alerts
}

// kept is what a refused enrolment must not change of a server.
func (k *rack) kept(uuid string) string {
	k.Helper()
	r := record(k.T, k.st, uuid)
	r.Presented = nil
	var o Observed
	update(k.T, k.st, func(tx store.Tx) (err error) { o, err = GetObserved(tx, uuid); return err })
	b, err := json.Marshal([]any{r, o.Sysinfo})
	if err != nil {
		k.Fatal(err)
	}
	return string(b)
}

// TestWhoIsThisMachine goes through every way in which a machine and a known
// server can differ. Exactly one row of docs/boot.md speaks of each.
func TestWhoIsThisMachine(t *testing.T) {
	rows := documented(t)
	used := make([]int, len(rows))
	listed := map[string][]string{"its": {macX}, "unknown": {macZ}, "another's": {macY}, "its and another's": {macX, macY}}
	for _, server := range []string{"syncs", "pinned", "silent", "new", "pending", "rejected"} {
		for key, k := range map[string]string{"its": "its", "unknown": "stranger"} {
			for boot, b := range map[string]string{"its": macA, "unknown": macB, "another's": macC} {
				for uuid, u := range map[string]string{"its": uuidA, "none": "03000200-0400-0500-0006-000700080009", "unknown": "4c4c4544-0042-3510-8052-b4c04f4e4d32", "another's": uuidB} {
					for others, list := range listed {
						if key == "unknown" && boot == "another's" {
							continue // the second server's row, with the servers exchanged
						}
						if key == "unknown" && boot == "unknown" && uuid == "another's" {
							continue // likewise
						}
						if server == "rejected" && key == "its" {
							continue // it has no key
						}
						name := fmt.Sprintf("%s, key %s, boot MAC %s, UUID %s, other MACs %s", server, key, boot, uuid, others)
						var row *row
						for i := range rows {
							if !rows[i].matches(server, key, boot, uuid, others) {
								continue
							}
							if row != nil {
								t.Errorf("%s: two rows of docs/boot.md say something of it", name)
							}
							row = &rows[i]
							used[i]++
						}
						if row == nil {
							t.Errorf("%s: no row of docs/boot.md says anything of it", name)
							continue
						}
						t.Run(name, func(t *testing.T) { newRack(t, server).check(server, *row, k, b, u, list) })
					}
				}
			}
		}
	}
	for i, n := range used {
		if n == 0 {
			t.Errorf("row %d of docs/boot.md speaks of nothing there is", i+1)
		}
	}
}

// check enrols a machine, twice, and looks at what it is, how it is shown, what
// the known servers kept, and that the decision the row names lets it in.
func (k *rack) check(standing string, want row, key, boot, uuid string, others []string) {
	before, _, _ := k.shown(uuidA)
	its, another := k.kept(uuidA), k.kept(uuidB)
	out := k.enrol(key, boot, uuid, others...)
	if again := k.enrol(key, boot, uuid, others...); again.Record.UUID != out.Record.UUID || again.Granted != out.Granted {
		k.Fatalf("asked again: %+v, then %+v", out, again)
	}
	id := out.Record.UUID
	state, why, alerts := k.shown(id)
	after, _, _ := k.shown(uuidA)
	newcomer := id != uuidA && id != uuidB
	switch want.is {
	case theServer:
		granted := standing != "pending" && standing != "rejected"
		if id != uuidA || out.Granted != granted || after != before {
			k.Fatalf("got %+v, shown as %s", out, after)
		}
		return
	case otherKeyed, theOther:
		server := map[string]string{otherKeyed: uuidA, theOther: uuidB}[want.is]
		if id != server || refused(out) != api.CodeKeyMismatch || len(alerts) != 1 {
			k.Fatalf("got %+v, alerts %q", out, alerts)
		}
		if held := !k.syncing || server != uuidA; held != (state == api.StateHeld) || held && !strings.Contains(why, "server accept-key") {
			k.Errorf("shown as %s: %s", state, why)
		}
	case aNewcomer:
		if !newcomer || out.Refused != nil || out.Granted || state != api.StatePending {
			k.Fatalf("got %+v, shown as %s", out, state)
		}
		if u, ok := Usable(uuid); ok && id != u || !ok && id != MadeUUID(boot, 0) {
			k.Errorf("its UUID is %s", id)
		}
		if boot == macA != (len(alerts) == 1 && strings.Contains(alerts[0], macA+", the MAC of server cn0")) || boot != macA && len(alerts) != 0 {
			k.Errorf("it boots from %s, and its alerts are %q", boot, alerts)
		}
	case claimsOther, claimsIt, bothHeld:
		if !newcomer || refused(out) != api.CodeUUIDCollision || state != api.StateHeld || out.Record.Claims != uuid || !strings.Contains(why, "server approve") {
			k.Fatalf("got %+v, shown as %s: %s", out, state, why)
		}
		if want.is == bothHeld != (after == api.StateHeld) {
			k.Errorf("the server is shown as %s", after)
		}
		if boot == macB && record(k.T, k.st, boot).UUID != id {
			k.Error("its MAC does not find it")
		}
	default:
		k.Fatalf("docs/boot.md calls it %q", want.is)
	}
	if now := k.kept(uuidA); now != its {
		k.Errorf("the server's record was\n%s and is\n%s", its, now)
	}
	if now := k.kept(uuidB); now != another {
		k.Errorf("the other server's record was\n%s and is\n%s", another, now)
	}
	if want.is != bothHeld && want.is != theServer && after != before && want.is != otherKeyed {
		k.Errorf("the server is shown as %s, before as %s", after, before)
	}
	k.decide(want, id, key, boot, uuid, others)
}

// decide does what the row names, and wants the machine let in.
func (k *rack) decide(want row, id, key, boot, uuid string, others []string) {
	name := record(k.T, k.st, uuidA).Hostname
	var err error
	switch want.decide {
	case "approve":
		err = on(k.T, k.st, id, approve(""))
	case "approve --mac":
		if got := code(on(k.T, k.st, uuidA, approve(""))); got != api.CodeUUIDCollision {
			k.Errorf("approved without saying which one it is: %q", got)
		}
		err = on(k.T, k.st, uuidA, approve(boot))
		id = uuidA
	case "accept-key":
		if k.syncing && id == uuidA {
			if got := code(on(k.T, k.st, id, acceptKey("", true))); got != api.CodeConflict {
				k.Errorf("accepted while its key syncs: %q", got)
			}
			k.syncing = false
		}
		err = on(k.T, k.st, id, acceptKey("", false))
	default:
		k.Fatalf("docs/boot.md decides with %q", want.decide)
	}
	if err != nil {
		k.Fatal(err)
	}
	if out := k.enrol(key, boot, uuid, others...); !out.Granted || out.Record.UUID != id {
		k.Errorf("after %s: %+v", want.decide, out)
	}
	if r := record(k.T, k.st, uuidA); r.Hostname != name {
		k.Errorf("the server is called %s now", r.Hostname)
	}
	if want.is == claimsIt || want.is == claimsOther || want.is == aNewcomer {
		if out := k.enrol("its", macA, uuidA, macX); out.Record.UUID != uuidA {
			k.Errorf("the known server is not known any more: %+v", out)
		}
	}
}
