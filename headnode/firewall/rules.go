package firewall

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"
	"unicode/utf8"

	"nereid/api"
	"nereid/headnode/store"
)

// Bounds of what is stored. Whoever has more to say uses tags.
const (
	MaxRules       = 10_000 // rules of one owner, and as many global ones
	MaxDescription = 1024   // bytes
)

// Prefix of all keys; it changes with every rule.
const Prefix = "firewall/"

const (
	rulePrefix   = Prefix + "rule/"
	ownerPrefix  = Prefix + "owner/"
	globalPrefix = Prefix + "global/"
	countPrefix  = Prefix + "count/"
)

// indexKey orders a rule under its owner, or under the global ones.
func indexKey(r api.FirewallRule) string {
	if r.Global {
		return globalPrefix + r.UUID
	}
	return ownerPrefix + r.Owner + "/" + r.UUID
}

func countKey(r api.FirewallRule) string {
	if r.Global {
		return countPrefix + "global"
	}
	return countPrefix + r.Owner
}

// Create adds a rule. An empty UUID is made up, Created and Revision are. A rule
// that is not valid, known already, or one too many is an *api.Problem.
func Create(tx store.Tx, r api.FirewallRule, now time.Time) (api.FirewallRule, error) {
	if err := api.Faults(identify(&r), settle(&r)); err != nil {
		return r, err
	}
	known, err := store.Has(tx, rulePrefix+r.UUID)
	if err != nil {
		return r, fmt.Errorf("create firewall rule: %w", err)
	}
	if known {
		return r, problem(http.StatusConflict, api.CodeConflict, "there is a firewall rule "+r.UUID+" already", "change that one, or leave the UUID out to get a new one")
	}
	n, _, err := store.Lookup[int](tx, countKey(r))
	if err != nil {
		return r, fmt.Errorf("create firewall rule: %w", err)
	}
	if n >= MaxRules {
		return r, problem(http.StatusConflict, api.CodeConflict, "this owner has "+api.Plural(n, "firewall rule")+", and no more are allowed",
			"delete some, or join them: one rule names up to 24 targets on each side, and a tag names any number of instances")
	}
	r.Created = now.UTC()
	err = errors.Join(put(tx, &r), store.Put(tx, indexKey(r), struct{}{}), store.Put(tx, countKey(r), n+1))
	if err != nil {
		return r, fmt.Errorf("create firewall rule: %w", err)
	}
	return r, nil
}

// Get reads a rule; an *api.Problem with status 404 when there is none.
func Get(tx store.Tx, uuid string) (api.FirewallRule, error) {
	u, _ := parseUUID(uuid) // what is none is not found
	r, found, err := store.Lookup[api.FirewallRule](tx, rulePrefix+u)
	if err != nil {
		return r, fmt.Errorf("read firewall rule %s: %w", u, err)
	}
	if !found {
		return r, problem(http.StatusNotFound, api.CodeNotFound, fmt.Sprintf("there is no firewall rule %.64q", uuid), "list them with: nereid firewall list")
	}
	return r, nil
}

// Filter says which rules are listed: an owner's, the global ones, or all.
type Filter struct {
	Owner  string
	Global bool
}

// List gives a page of rules by UUID, behind the UUID after; next is empty on the
// last page. A limit of 0 is none.
func List(tx store.Tx, f Filter, after string, limit int) (rules []api.FirewallRule, next string, err error) {
	prefix := globalPrefix
	switch {
	case f.Owner == "" && !f.Global:
		rules, next, err = store.Scan[api.FirewallRule](tx, rulePrefix, after, limit)
		if err != nil {
			err = fmt.Errorf("list firewall rules: %w", err)
		}
		return rules, next, err
	case f.Owner != "" && f.Global:
		return nil, "", problem(http.StatusUnprocessableEntity, api.CodeInvalid, "a rule is an owner's or global, none is both", "ask for one of them")
	case f.Owner != "":
		owner, ok := parseUUID(f.Owner)
		if !ok {
			return nil, "", badOwner(f.Owner)
		}
		prefix = ownerPrefix + owner + "/"
	}
	from := ""
	if after != "" {
		from = prefix + after
	}
	key := func(it store.Item) string { return rulePrefix + it.Key[len(prefix):] }
	for e, err := range store.Through[api.FirewallRule](tx, prefix, from, key) {
		if err != nil {
			return nil, "", fmt.Errorf("list firewall rules: %w", err)
		}
		if limit > 0 && len(rules) == limit {
			return rules, rules[limit-1].UUID, nil
		}
		rules = append(rules, e.Value)
	}
	return rules, "", nil
}

// Update changes a rule. With a revision it is refused (412) when the rule has
// another one by now. What changes nothing keeps the revision.
func Update(tx store.Tx, uuid, revision string, u api.FirewallRuleUpdate) (api.FirewallRule, error) {
	was, err := current(tx, uuid, revision)
	if err != nil {
		return was, err
	}
	r := was
	set(&r.Rule, u.Rule)
	set(&r.Enabled, u.Enabled)
	set(&r.Log, u.Log)
	set(&r.Description, u.Description)
	if err := settle(&r); err != nil {
		return was, err
	}
	if r == was {
		return r, nil
	}
	if err := put(tx, &r); err != nil {
		return was, fmt.Errorf("update firewall rule: %w", err)
	}
	return r, nil
}

// Delete removes a rule, on the same terms as Update.
func Delete(tx store.Tx, uuid, revision string) error {
	r, err := current(tx, uuid, revision)
	if err != nil {
		return err
	}
	n, _, err := store.Lookup[int](tx, countKey(r))
	if err == nil && n > 1 {
		err = store.Put(tx, countKey(r), n-1)
	} else if err == nil {
		err = tx.Delete(countKey(r))
	}
	if err = errors.Join(err, tx.Delete(rulePrefix+r.UUID), tx.Delete(indexKey(r))); err != nil {
		return fmt.Errorf("delete firewall rule: %w", err)
	}
	return nil
}

// current reads a rule that is to be changed.
func current(tx store.Tx, uuid, revision string) (api.FirewallRule, error) {
	r, err := Get(tx, uuid)
	if err == nil && revision != "" && revision != r.Revision {
		err = problem(http.StatusPreconditionFailed, api.CodeStale,
			fmt.Sprintf("firewall rule %s was changed meanwhile; its revision is %s", r.UUID, r.Revision), "read it again and decide anew")
	}
	return r, err
}

// put writes a rule under a new revision.
func put(tx store.Tx, r *api.FirewallRule) error {
	r.Revision = hex.EncodeToString(random(8))
	return store.Put(tx, rulePrefix+r.UUID, *r)
}

// identify checks whose a new rule is, and its UUID.
func identify(r *api.FirewallRule) error {
	var faults []error
	switch {
	case r.Global && r.Owner != "":
		faults = append(faults, problem(http.StatusUnprocessableEntity, api.CodeInvalid, "a rule has an owner or is global, not both", "leave out one of owner_uuid and global"))
	case !r.Global && r.Owner == "":
		faults = append(faults, problem(http.StatusUnprocessableEntity, api.CodeInvalid, "the rule has no owner", "give owner_uuid, or global for a rule about everybody's instances"))
	case !r.Global:
		owner, ok := parseUUID(r.Owner)
		if !ok {
			faults = append(faults, badOwner(r.Owner))
		}
		r.Owner = owner
	}
	uuid, ok := parseUUID(cmp.Or(r.UUID, newUUID()))
	if !ok {
		faults = append(faults, problem(http.StatusUnprocessableEntity, api.CodeInvalid, fmt.Sprintf("%.64q is no UUID", r.UUID), "leave it out to get a new one"))
	}
	r.UUID = uuid
	return api.Faults(faults...)
}

func badOwner(owner string) error {
	return problem(http.StatusUnprocessableEntity, api.CodeInvalid, fmt.Sprintf("owner %.64q is no UUID", owner), "give the account's UUID")
}

// settle checks what can be changed of a rule and brings it into canonical form.
func settle(r *api.FirewallRule) error {
	var rule, description error
	if parsed, err := Parse(r.Rule); err != nil {
		rule = invalid(err)
	} else {
		r.Rule = Format(parsed)
	}
	if len(r.Description) > MaxDescription || !utf8.ValidString(r.Description) {
		description = problem(http.StatusUnprocessableEntity, api.CodeInvalid,
			fmt.Sprintf("the description has %d bytes; it may have %d, of UTF-8", len(r.Description), MaxDescription), "shorten it")
	}
	return api.Faults(rule, description)
}

// invalid is the problem of a rule's text, with the place in it.
func invalid(err error) error {
	p := problem(http.StatusUnprocessableEntity, api.CodeInvalid, "the rule is not valid: "+err.Error(), "try it with: nereid firewall check")
	var se *SyntaxError
	if errors.As(err, &se) {
		p.Detail, p.Errors = "the rule is not valid: "+se.Summary(), se.Lines()
	}
	return p
}

func problem(status int, code api.Code, detail, next string) *api.Problem {
	return &api.Problem{Title: http.StatusText(status), Status: status, Code: code, Detail: detail, Next: next}
}

func set[T any](field *T, to *T) {
	if to != nil {
		*field = *to
	}
}

// newUUID makes a UUID of version 4 (RFC 9562, section 5.4).
func newUUID() string {
	b := random(16)
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails (crypto/rand, Go 1.24)
	return b
}
