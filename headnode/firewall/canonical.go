package firewall

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"nereid/api"
)

// canonical gives the targets in order, each once. A tag makes those with a value
// of it needless.
func (s side) canonical() []api.RuleTarget {
	whole := make(map[string]bool)
	for _, t := range s.targets {
		if t.Kind == api.TargetTag && t.TagValue == nil {
			whole[t.Value] = true
		}
	}
	out := make([]api.RuleTarget, 0, len(s.targets))
	for _, t := range s.targets {
		if t.Kind != api.TargetTag || t.TagValue == nil || !whole[t.Value] {
			out = append(out, t.RuleTarget)
		}
	}
	slices.SortFunc(out, compareTargets)
	return slices.CompactFunc(out, func(a, b api.RuleTarget) bool { return compareTargets(a, b) == 0 })
}

func compareTargets(a, b api.RuleTarget) int {
	if c := cmp.Compare(targetOrder(a.Kind), targetOrder(b.Kind)); c != 0 {
		return c
	}
	switch a.Kind {
	case api.TargetIP, api.TargetSubnet:
		return comparePeers(a.Value, b.Value)
	}
	return cmp.Or(cmp.Compare(a.Value, b.Value), cmp.Compare(tagValue(a), tagValue(b)))
}

// targetOrder is the order in which Triton prints targets.
func targetOrder(kind string) int {
	return slices.Index([]string{api.TargetAny, api.TargetAllVMs, api.TargetIP, api.TargetSubnet, api.TargetTag, api.TargetVM}, kind)
}

// tagValue is a tag's value. Of one name, those with a value do not meet the one
// without.
func tagValue(t api.RuleTarget) string {
	if t.TagValue == nil {
		return ""
	}
	return *t.TagValue
}

// comparePeers orders addresses and CIDRs by number, IPv4 first.
func comparePeers(a, b string) int { return prefixOf(a).Compare(prefixOf(b)) }

// prefixOf reads an address or CIDR; the zero Prefix when it is none.
func prefixOf(s string) netip.Prefix {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen())
	}
	c, _ := netip.ParsePrefix(s)
	return c
}

// mergePorts sorts ranges and joins those that overlap. No ranges are all ports.
func mergePorts(in []api.PortRange) []api.PortRange {
	if len(in) == 0 {
		return allPorts()
	}
	slices.SortFunc(in, func(a, b api.PortRange) int {
		return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
	})
	out := in[:1]
	for _, r := range in[1:] {
		if last := &out[len(out)-1]; r.First <= last.Last {
			last.Last = max(last.Last, r.Last)
		} else {
			out = append(out, r)
		}
	}
	return out
}

// mergeTypes sorts types; one without a code makes those with a code needless.
func mergeTypes(in []api.ICMPType) []api.ICMPType {
	slices.SortFunc(in, func(a, b api.ICMPType) int { return cmp.Compare(typeOrder(a), typeOrder(b)) })
	out := in[:0]
	for _, t := range in {
		if n := len(out); n == 0 || out[n-1].Type != t.Type || out[n-1].Code != nil && *out[n-1].Code != *t.Code {
			out = append(out, t)
		}
	}
	return out
}

// typeOrder puts a type without a code before those with one.
func typeOrder(t api.ICMPType) int {
	if t.Code == nil {
		return int(t.Type) << 9
	}
	return int(t.Type)<<9 + 1 + int(*t.Code)
}

// Format prints a rule in canonical form, which Triton reads too. Parse of it
// gives the rule again.
func Format(r api.ParsedRule) string {
	var b strings.Builder
	fmt.Fprintf(&b, "FROM %s TO %s %s %s", formatTargets(r.From), formatTargets(r.To), strings.ToUpper(r.Action), r.Protocol)
	switch r.Protocol {
	case "tcp", "udp":
		b.WriteString(" " + formatPorts(r.Ports))
	case "icmp", "icmp6":
		b.WriteString(" " + formatTypes(r.Types))
	}
	if r.Priority > 0 {
		fmt.Fprintf(&b, " PRIORITY %d", r.Priority)
	}
	return b.String()
}

func formatTargets(targets []api.RuleTarget) string {
	words := make([]string, len(targets))
	for i, t := range targets {
		words[i] = FormatTarget(t)
	}
	return join(words, " OR ")
}

// FormatTarget prints one target as Format does.
func FormatTarget(t api.RuleTarget) string {
	switch t.Kind {
	case api.TargetAny:
		return "any"
	case api.TargetAllVMs:
		return "all vms"
	case api.TargetTag:
		if t.TagValue != nil {
			return fmt.Sprintf("tag %s = %s", quote(t.Value), quote(*t.TagValue))
		}
		return "tag " + quote(t.Value)
	}
	return t.Kind + " " + t.Value
}

func formatPorts(ports []api.PortRange) string {
	words := make([]string, len(ports))
	if slices.Equal(ports, allPorts()) {
		return "PORT ALL"
	}
	if slices.ContainsFunc(ports, func(r api.PortRange) bool { return r.First != r.Last }) {
		for i, r := range ports {
			words[i] = FormatPorts(r)
		}
		return "PORTS " + strings.Join(words, ", ")
	}
	for i, r := range ports {
		words[i] = fmt.Sprintf("PORT %d", r.First)
	}
	return join(words, " AND ")
}

// FormatPorts prints one port or range.
func FormatPorts(r api.PortRange) string {
	if r.First == r.Last {
		return fmt.Sprint(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

func formatTypes(types []api.ICMPType) string {
	if len(types) == 0 {
		return "TYPE ALL"
	}
	words := make([]string, len(types))
	for i, t := range types {
		words[i] = fmt.Sprintf("TYPE %d", t.Type)
		if t.Code != nil {
			words[i] += fmt.Sprintf(" CODE %d", *t.Code)
		}
	}
	return join(words, " AND ")
}

// join puts several into parentheses.
func join(words []string, with string) string {
	if len(words) == 1 {
		return words[0]
	}
	return "(" + strings.Join(words, with) + ")"
}
