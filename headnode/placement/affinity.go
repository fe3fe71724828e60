package placement

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"nereid/api"
)

// Rule is what an instance wants of the account's other instances, or of racks, as
// "instance==web*", "role!=~db" or "rack==r1".
type Rule struct {
	Text  string
	Key   string // "instance", "rack", or the name of a tag
	Not   bool   // away from those that match
	Soft  bool   // as far as possible
	value *regexp.Regexp
}

// ruleRE is the grammar of Triton's affinity rules: a key, "==" or "!=", "~" for a
// wish, and an exact value, one with "*" in it, or a regular expression in slashes.
var ruleRE = regexp.MustCompile(`^([a-zA-Z_][a-zA-Z0-9_.-]*)(==|!=)(~?)(.+)$`)

// MaxRules is how many rules an instance has at most, each of at most maxRule bytes.
const (
	MaxRules = 32
	maxRule  = 256
)

// ParseRules reads an instance's rules, and names all that are wrong.
func ParseRules(texts []string) ([]Rule, error) {
	var out []Rule
	var faults []error
	if len(texts) > MaxRules {
		faults = append(faults, invalid("name fewer", "there are %d affinity rules; at most %d are allowed", len(texts), MaxRules))
	}
	for _, t := range texts {
		r, err := ParseRule(t)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		out = append(out, r)
	}
	return out, api.Faults(faults...)
}

// ParseRule reads a rule.
func ParseRule(text string) (Rule, error) {
	const next = "write it as instance==web*, role!=~db or rack==r1"
	m := ruleRE.FindStringSubmatch(text)
	if m == nil || len(text) > maxRule {
		return Rule{}, invalid(next, "affinity %.80q: want KEY==VALUE, KEY!=VALUE, or ==~ and !=~ for a wish, of at most %d bytes", text, maxRule)
	}
	r := Rule{Text: text, Key: m[1], Not: m[2] == "!=", Soft: m[3] == "~"}
	if r.Key == "container" { // Docker's and Triton's older word
		r.Key = "instance"
	}
	v := m[4]
	if len(v) > 2 && strings.HasPrefix(v, "/") && strings.HasSuffix(v, "/") {
		re, err := regexp.Compile(v[1 : len(v)-1])
		if err != nil {
			return Rule{}, invalid("correct it; the syntax is RE2's", "affinity %.80q: %v", text, err)
		}
		r.value = re
		return r, nil
	}
	parts := strings.Split(v, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	re, err := regexp.Compile("(?s)^" + strings.Join(parts, ".*") + "$")
	if err != nil {
		return Rule{}, invalid(next, "affinity %.80q: %v", text, err)
	}
	r.value = re
	return r, nil
}

func invalid(next, format string, args ...any) error {
	return &api.Problem{Title: http.StatusText(http.StatusUnprocessableEntity), Status: http.StatusUnprocessableEntity, Code: api.CodeInvalid, Detail: fmt.Sprintf(format, args...), Next: next}
}

// AboutInstances says whether a rule is about other instances.
func (r Rule) AboutInstances() bool { return r.Key != "rack" }

// matches says whether a rule is about an instance.
func (r Rule) matches(n Neighbour) bool {
	if r.Key == "instance" {
		return r.value.MatchString(n.Name) || r.value.MatchString(n.UUID)
	}
	v, has := n.Tags[r.Key]
	return has && r.value.MatchString(fmt.Sprint(v))
}

func (r Rule) count(near []Neighbour) int {
	n := 0
	for _, x := range near {
		if r.matches(x) {
			n++
		}
	}
	return n
}

// holds says whether a server is as the rule wants it.
func (r Rule) holds(s Server, near []Neighbour) bool {
	if r.Key == "rack" {
		return r.value.MatchString(s.Rack) != r.Not
	}
	return (r.count(near) > 0) != r.Not
}

// against says why a server is not what a hard rule wants; empty: it is.
func (r Rule) against(s Server, near []Neighbour, others bool) string {
	switch {
	case r.holds(s, near):
		return ""
	case r.Key == "rack" && s.Rack == "":
		return "no rack is noted for it"
	case r.Key == "rack":
		return "it is in rack " + s.Rack
	case r.Not:
		return api.Plural(r.count(near), "instance") + " there match"
	case !others:
		return "the account has no instance yet"
	}
	return "no instance there matches"
}

// wish is how far a server is what a soft rule wants, from 0 to 1. One in the same
// rack as what it is to be away from is better than none, and worse than another.
func (r Rule) wish(s Server, near, rack []Neighbour) float64 {
	switch {
	case !r.holds(s, near):
		if !r.Not && r.Key != "rack" && r.count(rack) > 0 {
			return 0.25
		}
		return 0
	case r.Not && r.Key != "rack" && s.Rack != "" && r.count(rack) > 0:
		return 0.75
	}
	return 1
}
