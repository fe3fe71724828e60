package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// guess says what was probably meant where something else was expected; nothing
// when it has no idea.
func (p *parser) guess(expected []string) string {
	wants := func(what string) bool { return slices.Contains(expected, what) }
	word := p.tok.keyword
	switch {
	case wants("FROM"):
		return "a rule is FROM targets TO targets ALLOW or BLOCK, and a protocol with its ports or types"
	case wants("ALLOW"):
		switch word {
		case "DENY", "DROP", "REJECT":
			return "write BLOCK"
		case "ACCEPT", "PERMIT", "PASS":
			return "write ALLOW"
		case "AND", "OR":
			return "several targets stand in parentheses: (TAG a OR TAG b)"
		}
	case wants("TAG"):
		return p.guessTarget(word)
	case wants("TO") && (word == "OR" || word == "AND" || p.tok.is(",")):
		return "several targets stand in parentheses: (TAG a OR TAG b)"
	case wants("OR") && (word == "AND" || p.tok.is(",")):
		return "targets are joined with OR"
	case wants("TCP"):
		switch word {
		case "ICMPV6", "IPV6-ICMP", "ICMP-V6":
			return "write ICMP6"
		case "ICMP4", "ICMPV4":
			return "write ICMP"
		case "IPSEC":
			return "write one rule with ESP, and one with AH"
		case "PORT", "PORTS":
			return "the protocol stands before the ports: TCP PORT 80"
		}
		return "a rule is about one protocol"
	case wants("VMS"):
		return "every instance is ALL VMS, every address is ANY"
	case wants("PORT"):
		switch {
		case p.tok.kind == tokenEnd:
			return "every port is PORT ALL"
		case word == "TYPE":
			return "types are of ICMP and ICMP6"
		case word != "" && strings.Trim(word, "0123456789-") == "":
			return "write PORT before a port, PORTS before a range"
		}
	case wants("TYPE"):
		switch {
		case p.tok.kind == tokenEnd:
			return "every type is TYPE ALL"
		case word == "PORT" || word == "PORTS":
			return "ports are of TCP and UDP"
		}
	case wants("a port number"):
		if a, b, _ := strings.Cut(word, "-"); isDigits(a) && isDigits(b) {
			return fmt.Sprintf("a range stands behind PORTS: PORTS %.20s", word)
		}
	case wants("AND") && (word == "OR" || p.tok.is(",")):
		return "in parentheses they are joined with AND"
	case wants("the end"):
		switch {
		case word == "AND" || word == "OR":
			return "several stand in parentheses: (PORT 22 AND PORT 80), (TYPE 8 AND TYPE 3)"
		case p.tok.is(","):
			return "several stand behind PORTS: PORTS 22, 80"
		case word == "LOG":
			return "logging is a setting of the rule, not a part of its text"
		}
	}
	return ""
}

// guessTarget is guess where a target should stand.
func (p *parser) guessTarget(word string) string {
	text := p.tok.text
	if _, err := netip.ParsePrefix(text); err == nil {
		return "write SUBNET " + text
	}
	if _, err := netip.ParseAddr(text); err == nil {
		return "write IP " + text
	}
	if _, ok := parseUUID(text); ok {
		return "write VM " + text
	}
	switch {
	case word == "VMS":
		return "write ALL VMS"
	case word == "*" || word == "EVERYTHING" || word == "ALL":
		return "every address is ANY, every instance is ALL VMS"
	case word == "ANY":
		return "ANY stands alone"
	case word == "TAGS":
		return "write TAG"
	case word == "INSTANCE":
		return "write VM"
	case p.tok.kind == tokenString:
		return "write TAG before a tag's name"
	}
	return ""
}
