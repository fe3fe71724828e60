package firewall

import (
	"fmt"
	"strconv"
	"strings"

	"nereid/api"
)

// Bounds of a rule. Triton has the same for targets and items.
const (
	MaxText     = 64 << 10 // bytes of a rule, as written and in canonical form
	MaxTargets  = 24       // targets on each side
	MaxItems    = 24       // ports, ranges or ICMP types
	MaxName     = 255      // bytes of a tag's name, and of its value
	MaxPriority = 100
)

// parser reads a rule; tok is the token it looks at.
type parser struct {
	text string
	tok  token
}

// Parse reads a rule. The result is in canonical order: what says the same twice
// is there once, addresses and UUIDs are in their usual form. An error is a
// *SyntaxError. Time and memory grow linearly with the text.
func Parse(text string) (api.ParsedRule, error) {
	if len(text) > MaxText {
		return api.ParsedRule{}, newSyntaxError(text[:MaxText], MaxText, fmt.Sprintf("the rule has %d bytes, at most %d are allowed", len(text), MaxText),
			"tags name many instances at once, subnets many addresses")
	}
	p := &parser{text: text}
	p.next()
	r, err := p.rule()
	if err != nil {
		return api.ParsedRule{}, err
	}
	if len(text) < MaxText/8 { // escapes have up to six times the length of what they stand for
		return r, nil
	}
	if n := len(Format(r)); n > MaxText {
		return api.ParsedRule{}, newSyntaxError(text, 0, fmt.Sprintf("the rule has %d bytes in canonical form, at most %d are allowed", n, MaxText),
			"split it into several rules")
	}
	return r, nil
}

func (p *parser) next() { p.tok = lex(p.text, p.tok.end) }

// fail makes an error of a place.
func (p *parser) fail(at int, msg, hint string, expected ...string) error {
	return newSyntaxError(p.text, at, msg, hint, expected...)
}

// unexpected says that the token is none of those that could be there.
func (p *parser) unexpected(expected ...string) error {
	if p.tok.kind == tokenBad {
		return p.tok.err
	}
	return p.fail(p.tok.pos, "found "+p.found(), p.guess(expected), expected...)
}

// found names the token, cut when it is long.
func (p *parser) found() string {
	if p.tok.kind == tokenEnd {
		return "the end"
	}
	s := p.text[p.tok.pos:p.tok.end]
	if r := []rune(s); len(r) > 40 {
		s = string(r[:37]) + "..."
	}
	if p.tok.kind == tokenString {
		return strings.Map(visible, s)
	}
	return strconv.Quote(s)
}

// take passes a keyword if it is there.
func (p *parser) take(keyword string) bool {
	if p.tok.keyword != keyword {
		return false
	}
	p.next()
	return true
}

// expect passes what must be there, a keyword or punctuation.
func (p *parser) expect(what string, also ...string) error {
	if p.tok.is(what) {
		p.next()
		return nil
	}
	if !p.take(what) {
		return p.unexpected(append([]string{what}, also...)...)
	}
	return nil
}

func (p *parser) rule() (api.ParsedRule, error) {
	var r api.ParsedRule
	if err := p.expect("FROM"); err != nil {
		return r, err
	}
	start := p.tok.pos
	from, err := p.targets()
	if err != nil {
		return r, err
	}
	if err := p.expect("TO", from.more()...); err != nil {
		return r, err
	}
	to, err := p.targets()
	if err != nil {
		return r, err
	}
	switch p.tok.keyword {
	case "ALLOW", "BLOCK":
		r.Action = strings.ToLower(p.tok.text)
		p.next()
	default:
		return r, p.unexpected(append([]string{"ALLOW", "BLOCK"}, to.more()...)...)
	}
	after, err := p.protocol(&r)
	if err != nil {
		return r, err
	}
	if err := p.end(&r, after); err != nil {
		return r, err
	}
	if !from.concernsInstances() && !to.concernsInstances() {
		return r, p.fail(start, "the rule is about no instance", "name instances on one side at least, with TAG, VM or ALL VMS; an address does not, also if it is an instance's")
	}
	for _, side := range []side{from, to} {
		if err := p.sameFamily(side, r.Protocol); err != nil {
			return r, err
		}
	}
	r.From, r.To = from.canonical(), to.canonical()
	return r, nil
}

// end reads the priority, if there is one, and the end; after is what else could
// have stood there.
func (p *parser) end(r *api.ParsedRule, after []string) error {
	if !p.take("PRIORITY") {
		if p.tok.kind != tokenEnd {
			return p.unexpected(append(after, "PRIORITY", "the end")...)
		}
		return nil
	}
	n, err := p.number("priority", 0, MaxPriority)
	if err != nil {
		return err
	}
	r.Priority = n
	if p.tok.kind != tokenEnd {
		return p.unexpected("the end")
	}
	return nil
}

// number passes a decimal number and checks its range.
func (p *parser) number(what string, least, most int) (int, error) {
	if p.tok.kind != tokenWord || p.reserved() {
		return 0, p.unexpected("a " + what + " number")
	}
	n, err := p.parseNumber(p.tok.text, what, least, most)
	if err == nil {
		p.next()
	}
	return n, err
}

// parseNumber reads a number of the token at hand.
func (p *parser) parseNumber(s, what string, least, most int) (int, error) {
	if !isDigits(s) {
		return 0, p.unexpected(fmt.Sprintf("a %s number", what))
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > most {
		return 0, p.fail(p.tok.pos, fmt.Sprintf("%s %.20s is not from %d to %d", what, s, least, most), "")
	}
	return n, nil
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// reserved says whether the token is a keyword, which no name may be without
// quotes.
func (p *parser) reserved() bool {
	switch p.tok.keyword {
	case "FROM", "TO", "ANY", "ALL", "VMS", "IP", "SUBNET", "VM", "TAG", "OR", "AND", "ALLOW", "BLOCK",
		"TCP", "UDP", "ICMP", "ICMP6", "AH", "ESP", "PORT", "PORTS", "TYPE", "CODE", "PRIORITY":
		return true
	}
	return false
}
