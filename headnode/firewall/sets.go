package firewall

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"nereid/api"
)

// everybody is the scope of global rules. No owner has an empty UUID.
const everybody = ""

// selector names instances, or the addresses that a side lists.
type selector struct {
	scope string // owner whose instances are meant, or everybody
	kind  string // TargetAllVMs, TargetTag, TargetVM; TargetIP for addresses and subnets
	value string
	tag   string // tag: the value wanted
	exact bool   // tag: it is wanted
}

// group is what a selector comes to.
type group struct {
	name      string
	set       string       // the journal's, of instances' addresses; empty: literal members
	addresses []netip.Addr // of instances, while they are gathered
	members   []string
	rules     []int // that name it, by index
}

// setName is the name of the address set of a selector. Sixteen bytes of SHA-256
// keep an owner from making one name out of two sets.
func (s selector) setName() string {
	prefix := map[string]string{api.TargetAllVMs: "all", api.TargetTag: "tag", api.TargetVM: "vm", api.TargetIP: "ip"}[s.kind]
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %t", s.scope, s.kind, s.value, s.tag, s.exact))
	return prefix + "_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
}

// selectors gives all that select an instance.
func (i Instance) selectors(yield func(selector) bool) {
	for _, scope := range []string{i.Owner, everybody} {
		if !yield(selector{scope: scope, kind: api.TargetAllVMs}) || !yield(selector{scope: scope, kind: api.TargetVM, value: i.UUID}) {
			return
		}
		for name, value := range i.Tags {
			if !yield(selector{scope: scope, kind: api.TargetTag, value: name}) ||
				!yield(selector{scope: scope, kind: api.TargetTag, value: name, tag: value, exact: true}) {
				return
			}
		}
	}
}

// selectorOf gives the selector of a target of a rule.
func selectorOf(scope string, t api.RuleTarget) selector {
	s := selector{scope: scope, kind: t.Kind, value: t.Value}
	if t.TagValue != nil {
		s.tag, s.exact = *t.TagValue, true
	}
	return s
}

// settle turns the gathered addresses into members: sorted, each once.
func (g *group) settle() {
	if len(g.addresses) == 0 {
		return
	}
	slices.SortFunc(g.addresses, netip.Addr.Compare)
	g.addresses = slices.Compact(g.addresses)
	g.members = make([]string, len(g.addresses))
	for i, a := range g.addresses {
		g.members[i] = a.String()
	}
	g.addresses = nil
}
