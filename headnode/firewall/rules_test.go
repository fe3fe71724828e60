package firewall

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
)

var t0 = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// world is a store; each Update in it runs twice.
type world struct {
	*testing.T
	s store.Store
}

func newWorld(t *testing.T) *world {
	s, err := store.OpenBolt(t.Context(), filepath.Join(t.TempDir(), "db"), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &world{t, storetest.Twice(s)}
}

func (w *world) create(r api.FirewallRule) (api.FirewallRule, error) {
	var out api.FirewallRule
	err := w.s.Update(w.Context(), func(tx store.Tx) (err error) {
		out, err = Create(tx, r, t0)
		return err
	})
	return out, err
}

func (w *world) update(uuid, revision string, u api.FirewallRuleUpdate) (api.FirewallRule, error) {
	var out api.FirewallRule
	err := w.s.Update(w.Context(), func(tx store.Tx) (err error) {
		out, err = Update(tx, uuid, revision, u)
		return err
	})
	return out, err
}

func (w *world) delete(uuid, revision string) error {
	return w.s.Update(w.Context(), func(tx store.Tx) error { return Delete(tx, uuid, revision) })
}

// list reads all pages of two.
func (w *world) list(f Filter) []string {
	w.Helper()
	var out []string
	err := w.s.View(w.Context(), func(tx store.Tx) error {
		for after := ""; ; {
			page, next, err := List(tx, f, after, 2)
			if err != nil {
				return err
			}
			if len(page) > 2 || next != "" && len(page) < 2 {
				return fmt.Errorf("a page of %d, next %q", len(page), next)
			}
			for _, r := range page {
				out = append(out, r.UUID[len(r.UUID)-2:])
			}
			if after = next; after == "" {
				return nil
			}
		}
	})
	if err != nil {
		w.Fatal(err)
	}
	return out
}

// keys lists all of the store.
func (w *world) keys() []string {
	w.Helper()
	var out []string
	err := w.s.View(w.Context(), func(tx store.Tx) error {
		for it, err := range tx.Scan("", "") {
			if err != nil {
				return err
			}
			out = append(out, it.Key)
		}
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
	return out
}

func isProblem(err error, status int, code api.Code, words string) bool {
	var p *api.Problem
	return errors.As(err, &p) && p.Status == status && p.Code == code && p.Next != "" && strings.Contains(p.Error(), words)
}

func TestRules(t *testing.T) {
	w := newWorld(t)
	r, err := w.create(api.FirewallRule{Owner: strings.ToUpper(alice), Rule: "from any to all vms allow tcp ports 80", Enabled: true, Description: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := parseUUID(r.UUID); !ok || r.Revision == "" {
		t.Errorf("UUID %q, revision %q", r.UUID, r.Revision)
	}
	want := api.FirewallRule{UUID: r.UUID, Rule: "FROM any TO all vms ALLOW tcp PORT 80", Enabled: true, Owner: alice, Description: "web", Created: t0, Revision: r.Revision}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("created: -want +got\n%s", diff)
	}

	same, err := w.update(r.UUID, "", api.FirewallRuleUpdate{Rule: new("FROM any TO all vms ALLOW tcp (PORT 80)")})
	if err != nil || same != r {
		t.Errorf("a change that is none: %+v, %v", same, err)
	}
	changed, err := w.update(strings.ToUpper(r.UUID), r.Revision, api.FirewallRuleUpdate{Rule: new("FROM any TO tag x ALLOW icmp TYPE 8"), Enabled: new(false), Log: new(true), Description: new("")})
	want = api.FirewallRule{UUID: r.UUID, Rule: `FROM any TO tag "x" ALLOW icmp TYPE 8`, Owner: alice, Log: true, Created: t0, Revision: changed.Revision}
	if diff := cmp.Diff(want, changed); err != nil || diff != "" || changed.Revision == r.Revision {
		t.Errorf("changed: %v, -want +got\n%s", err, diff)
	}
	if _, err := w.update(r.UUID, r.Revision, api.FirewallRuleUpdate{Enabled: new(true)}); !isProblem(err, 412, api.CodeStale, changed.Revision) {
		t.Errorf("update of an old revision: %v", err)
	}
	if err := w.delete(r.UUID, r.Revision); !isProblem(err, 412, api.CodeStale, changed.Revision) {
		t.Errorf("delete of an old revision: %v", err)
	}
	if err := w.delete(r.UUID, changed.Revision); err != nil {
		t.Fatal(err)
	}
	if err := w.delete(r.UUID, ""); !isProblem(err, 404, api.CodeNotFound, r.UUID) {
		t.Errorf("delete again: %v", err)
	}
	if left := w.keys(); len(left) != 0 {
		t.Errorf("keys are left: %v", left)
	}
}

func TestRulesRefused(t *testing.T) {
	const rule = "FROM any TO all vms ALLOW tcp PORT 80"
	w := newWorld(t)
	if _, err := w.create(api.FirewallRule{UUID: uuid(1), Owner: alice, Rule: rule}); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		rule   api.FirewallRule
		status int
		code   api.Code
		words  string
	}{
		{api.FirewallRule{Rule: rule}, 422, api.CodeInvalid, "no owner"},
		{api.FirewallRule{Rule: rule, Owner: alice, Global: true}, 422, api.CodeInvalid, "not both"},
		{api.FirewallRule{Rule: rule, Owner: "alice"}, 422, api.CodeInvalid, `"alice" is no UUID`},
		{api.FirewallRule{Rule: rule, Owner: alice + "/x"}, 422, api.CodeInvalid, "is no UUID"},
		{api.FirewallRule{Rule: rule, Global: true, UUID: "x"}, 422, api.CodeInvalid, `"x" is no UUID`},
		{api.FirewallRule{Rule: rule, Owner: bob, UUID: uuid(1)}, 409, api.CodeConflict, "already"},
		{api.FirewallRule{Rule: "FROM any TO all vms DENY tcp PORT 80", Owner: alice}, 422, api.CodeInvalid,
			"column 21: found \"DENY\", expected ALLOW or BLOCK\n  FROM any TO all vms DENY tcp PORT 80\n                      ^\n  hint: write BLOCK; try it with"},
		{api.FirewallRule{Rule: rule, Owner: alice, Description: strings.Repeat("x", MaxDescription+1)}, 422, api.CodeInvalid, "1025 bytes"},
		{api.FirewallRule{Rule: rule, Owner: alice, Description: "\xff"}, 422, api.CodeInvalid, "UTF-8"},
	}
	before := w.keys()
	for _, tt := range tests {
		if _, err := w.create(tt.rule); !isProblem(err, tt.status, tt.code, tt.words) {
			t.Errorf("%+v: %v, want %d %s %q", tt.rule, err, tt.status, tt.code, tt.words)
		}
	}
	if _, err := w.update(uuid(1), "", api.FirewallRuleUpdate{Rule: new("nonsense")}); !isProblem(err, 422, api.CodeInvalid, "expected FROM") {
		t.Errorf("update to nonsense: %v", err)
	}
	if _, err := w.update(uuid(2), "", api.FirewallRuleUpdate{}); !isProblem(err, 404, api.CodeNotFound, uuid(2)) {
		t.Errorf("update of nothing: %v", err)
	}
	err := w.s.View(t.Context(), func(tx store.Tx) error {
		if _, err := Get(tx, "../owner"); !isProblem(err, 404, api.CodeNotFound, "") {
			t.Errorf("get of what is no UUID: %v", err)
		}
		if _, _, err := List(tx, Filter{Owner: alice, Global: true}, "", 0); !isProblem(err, 422, api.CodeInvalid, "both") {
			t.Errorf("list of both: %v", err)
		}
		if _, _, err := List(tx, Filter{Owner: "x"}, "", 0); !isProblem(err, 422, api.CodeInvalid, "no UUID") {
			t.Errorf("list of x: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.keys()); diff != "" {
		t.Errorf("what is refused leaves traces:\n%s", diff)
	}
}

func TestList(t *testing.T) {
	w := newWorld(t)
	for i := range 9 {
		r := api.FirewallRule{UUID: uuid(i), Rule: "FROM any TO all vms ALLOW tcp PORT 80", Owner: []string{alice, bob, ""}[i%3], Global: i%3 == 2}
		if _, err := w.create(r); err != nil {
			t.Fatal(err)
		}
	}
	for f, want := range map[Filter]string{
		{}:                            "00 01 02 03 04 05 06 07 08",
		{Owner: alice}:                "00 03 06",
		{Owner: strings.ToUpper(bob)}: "01 04 07",
		{Global: true}:                "02 05 08",
		{Owner: strings.Repeat("a", 8) + alice[8:35] + "9"}: "",
	} {
		if got := strings.Join(w.list(f), " "); got != want {
			t.Errorf("%+v: %s, want %s", f, got, want)
		}
	}
}

func TestTooManyRules(t *testing.T) {
	w := newWorld(t)
	r := api.FirewallRule{Rule: "FROM any TO all vms ALLOW tcp PORT 80", Owner: alice}
	first, err := w.create(r)
	if err != nil {
		t.Fatal(err)
	}
	var rest []api.FirewallRule
	err = w.s.Update(t.Context(), func(tx store.Tx) error {
		rest = nil
		for range MaxRules - 1 {
			n, err := Create(tx, r, t0)
			if err != nil {
				return err
			}
			rest = append(rest, n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.create(r); !isProblem(err, 409, api.CodeConflict, "10000 firewall rules") {
		t.Errorf("one too many: %v", err)
	}
	other := r
	other.Owner, other.Global = "", true
	if _, err := w.create(other); err != nil {
		t.Errorf("a global one: %v", err)
	}
	if err := w.delete(first.UUID, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := w.create(r); err != nil {
		t.Errorf("after a deletion: %v", err)
	}
	if slices.Contains(rest, first) {
		t.Error("UUIDs repeat")
	}
}

// TestListReadsTogether: an owner's rules are read with a few requests.
func TestListReadsTogether(t *testing.T) {
	w := newWorld(t)
	owner := newUUID()
	for range 100 {
		if _, err := w.create(api.FirewallRule{Owner: owner, Rule: "FROM any TO all vms ALLOW tcp PORT 22"}); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	trips := storetest.Trips(t, w.s, func(tx store.Tx) error {
		l, _, err := List(tx, Filter{Owner: owner}, "", 0)
		n = len(l)
		return err
	})
	if n != 100 || trips > 5 {
		t.Errorf("%d rules with %d requests, want 100 with at most 5", n, trips)
	}
}
