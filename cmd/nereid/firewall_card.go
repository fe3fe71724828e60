package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"nereid/api"
	"nereid/headnode/firewall"
)

// ruleCard prints a rule in parts. What Format makes is fit for a terminal.
func (a *app) ruleCard(w io.Writer, r checkedRule) error {
	c := a.card(w)
	c.hang("", r.Rule, bold)
	c.alternatives("from", r.Parsed.From)
	c.alternatives("to", r.Parsed.To)
	c.line("action", r.Parsed.Action)
	c.line("protocol", r.Parsed.Protocol)
	c.line("ports", portsCell(r.Parsed.Ports))
	if strings.HasPrefix(r.Parsed.Protocol, "icmp") {
		c.line("types", typesCell(r.Parsed.Types))
	}
	c.linef("priority", "%d", r.Parsed.Priority)
	c.section("Effect")
	if namesInstances(r.Parsed.To) {
		c.line("inwards", effect(r.Parsed, "allow", "block", "comes in"))
	}
	if namesInstances(r.Parsed.From) {
		c.line("outwards", effect(r.Parsed, "block", "allow", "goes out"))
	}
	return c.err
}

// alternatives prints targets, one a line.
func (c *card) alternatives(name string, targets []api.RuleTarget) {
	for _, t := range targets {
		c.printf("  %-12s %s\n", name, firewall.FormatTarget(t))
		name = "  or"
	}
}

func portsCell(ports []api.PortRange) string {
	if len(ports) == 1 && ports[0] == (api.PortRange{First: 1, Last: 65535}) {
		return "all"
	}
	words := make([]string, len(ports))
	for i, p := range ports {
		words[i] = firewall.FormatPorts(p)
	}
	return strings.Join(words, ", ")
}

func typesCell(types []api.ICMPType) string {
	words := make([]string, len(types))
	for i, t := range types {
		words[i] = fmt.Sprint(t.Type)
		if t.Code != nil {
			words[i] += fmt.Sprintf(" code %d", *t.Code)
		}
	}
	return firstOf(strings.Join(words, ", "), "all")
}

func namesInstances(targets []api.RuleTarget) bool {
	return slices.ContainsFunc(targets, func(t api.RuleTarget) bool {
		return t.Kind == api.TargetAllVMs || t.Kind == api.TargetTag || t.Kind == api.TargetVM
	})
}

// effect says what a rule changes in one direction, where one action is against
// the default and the other is the default's.
func effect(r api.ParsedRule, against, with, moves string) string {
	switch {
	case r.Action == against:
		return fmt.Sprintf("%ss what otherwise would be %sed; over %s of the same or a lower priority", against, with, strings.ToUpper(with))
	case r.Priority == 0:
		return fmt.Sprintf("none at priority 0: what %s is %sed by default, and every %s overrules this", moves, with, strings.ToUpper(against))
	}
	return fmt.Sprintf("%ss, over %s of a lower priority; what %s is %sed by default", with, strings.ToUpper(against), moves, with)
}
