package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"nereid/api"
)

// side is what stands behind FROM or TO.
type side struct {
	targets []placed
	list    bool // in parentheses
}

// placed is a target and where it stands.
type placed struct {
	api.RuleTarget
	pos int
}

// more is what else could stand behind a side: a value for its tag.
func (s side) more() []string {
	if last := s.targets[len(s.targets)-1]; last.Kind == api.TargetTag && last.TagValue == nil && !s.list {
		return []string{`"="`}
	}
	return nil
}

func (s side) concernsInstances() bool {
	for _, t := range s.targets {
		switch t.Kind {
		case api.TargetAllVMs, api.TargetVM, api.TargetTag:
			return true
		}
	}
	return false
}

// targets reads one side.
func (p *parser) targets() (side, error) {
	if !p.tok.is("(") {
		t, err := p.target("ANY", "ALL VMS", `"("`)
		return side{targets: []placed{t}}, err
	}
	p.next()
	s := side{list: true}
	for {
		if len(s.targets) == MaxTargets {
			return s, p.fail(p.tok.pos, fmt.Sprintf("more than %d targets on one side", MaxTargets),
				"give the instances a tag of their own, join addresses to subnets, or split the rule")
		}
		t, err := p.target()
		if err != nil {
			return s, err
		}
		s.targets = append(s.targets, t)
		or := p.tok.keyword == "OR"
		switch alone := t.Kind == api.TargetAny || t.Kind == api.TargetAllVMs; {
		case alone && (or || len(s.targets) > 1):
			return s, p.notInList(t)
		case p.tok.is(")"):
			p.next()
			return s, nil
		case alone:
			return s, p.unexpected(`")"`)
		case !or && t.Kind == api.TargetTag && t.TagValue == nil:
			return s, p.unexpected("OR", `")"`, `"="`)
		case !or:
			return s, p.unexpected("OR", `")"`)
		}
		p.next()
	}
}

func (p *parser) notInList(t placed) error {
	if t.Kind == api.TargetAny {
		return p.fail(t.pos, "ANY cannot be one of several targets", "ANY is everything already: write it alone")
	}
	return p.fail(t.pos, "ALL VMS cannot be one of several targets", "write ALL VMS alone, and a second rule for the other targets")
}

// target reads one target; also is what else could stand in its place.
func (p *parser) target(also ...string) (placed, error) {
	t := placed{pos: p.tok.pos}
	var err error
	switch p.tok.keyword {
	case "ANY":
		p.next()
		t.Kind = api.TargetAny
	case "ALL":
		p.next()
		t.Kind = api.TargetAllVMs
		err = p.expect("VMS")
	case "IP":
		p.next()
		t.Kind = api.TargetIP
		t.Value, err = p.address()
	case "SUBNET":
		p.next()
		t.Kind = api.TargetSubnet
		t.Value, err = p.subnet()
	case "VM":
		p.next()
		t.Kind = api.TargetVM
		t.Value, err = p.uuid()
	case "TAG":
		p.next()
		t.Kind = api.TargetTag
		err = p.tag(&t.RuleTarget)
	default:
		err = p.unexpected(append(also, "IP", "SUBNET", "VM", "TAG")...)
	}
	return t, err
}

func (p *parser) tag(t *api.RuleTarget) error {
	var err error
	if t.Value, err = p.name("a tag's name"); err != nil {
		return err
	}
	if !p.tok.is("=") {
		return nil
	}
	p.next()
	v, err := p.name("a tag's value")
	t.TagValue = &v
	return err
}

// name reads a tag's name or value.
func (p *parser) name(what string) (string, error) {
	s := p.tok.text
	switch {
	case p.tok.kind == tokenString:
		if s == "" && what == "a tag's name" {
			return "", p.fail(p.tok.pos, "the tag's name is empty", "")
		}
	case p.tok.kind != tokenWord:
		return "", p.unexpected(what)
	case p.reserved():
		return "", p.fail(p.tok.pos, "found the keyword "+p.tok.keyword, "if that is its name, put it into quotes", what)
	default:
		if i := strings.IndexFunc(s, func(r rune) bool { return !isNameChar(r) }); i >= 0 {
			return "", p.fail(p.tok.pos+i, fmt.Sprintf("%q cannot stand in a name without quotes", s[i:i+1]), nameHint(s))
		}
	}
	if len(s) > MaxName {
		return "", p.fail(p.tok.pos, fmt.Sprintf("%s has %d bytes, at most %d are allowed", what, len(s), MaxName), "")
	}
	p.next()
	return s, nil
}

func isNameChar(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-'
}

func nameHint(s string) string {
	if strings.HasPrefix(s, "'") {
		return `names are quoted with "`
	}
	return fmt.Sprintf("write %s", quote(s[:min(len(s), MaxName)]))
}

func (p *parser) uuid() (string, error) {
	if p.tok.kind != tokenWord || p.reserved() {
		return "", p.unexpected("an instance's UUID")
	}
	u, ok := parseUUID(p.tok.text)
	if !ok {
		return "", p.fail(p.tok.pos, p.found()+" is no UUID", "an instance is named by its UUID, as 163dcedb-828d-43c9-b076-625423250ee2")
	}
	p.next()
	return u, nil
}

// parseUUID gives a UUID in lower case.
func parseUUID(s string) (string, bool) {
	if len(s) != 36 {
		return "", false
	}
	s = strings.ToLower(s)
	for i, c := range s {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (c == '-') || !dash && !strings.ContainsRune("0123456789abcdef", c) {
			return "", false
		}
	}
	return s, true
}

func (p *parser) address() (string, error) {
	if p.tok.kind != tokenWord || p.reserved() {
		return "", p.unexpected("an address")
	}
	s := p.tok.text
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil && strings.Contains(s, "/"):
		return "", p.fail(p.tok.pos, p.found()+" is no address", "a subnet is written SUBNET "+s[:min(len(s), 50)])
	case err != nil:
		return "", p.fail(p.tok.pos, p.found()+" is no IPv4 or IPv6 address", "")
	case a.Zone() != "":
		return "", p.fail(p.tok.pos+strings.IndexByte(s, '%'), "addresses with a zone have no meaning here", "write IP "+a.WithZone("").String())
	case a.Is4In6():
		return "", p.fail(p.tok.pos, "an IPv4 address inside an IPv6 one never stands in a packet", "write IP "+a.Unmap().String())
	case a.IsUnspecified(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "", p.fail(p.tok.pos, a.String()+" is no peer's address", "ANY means every address")
	}
	p.next()
	return a.String(), nil
}

func (p *parser) subnet() (string, error) {
	if p.tok.kind != tokenWord || p.reserved() {
		return "", p.unexpected("a subnet")
	}
	first, s := p.tok, p.tok.text
	if n := lex(p.text, p.tok.end); n.kind == tokenWord && n.text[0] == '/' { // 10.0.0.0 /8
		s += n.text
		p.next()
	}
	place := func(msg, hint string) error { return p.fail(first.pos, msg, hint) }
	c, err := netip.ParsePrefix(s)
	if err != nil {
		shown := fmt.Sprintf("%.50q", s)
		if a, aerr := netip.ParseAddr(s); aerr == nil {
			return "", place(shown+" has no prefix length", "one address is written IP "+a.String())
		}
		return "", place(shown+" is no subnet", subnetHint(s))
	}
	switch {
	case c.Addr().Is4In6():
		return "", place("an IPv4 subnet inside an IPv6 one never stands in a packet", "write the IPv4 subnet")
	case c.Bits() == 0:
		return "", place("a subnet of all addresses", "write ANY; it means every IPv4 and IPv6 address")
	case c != c.Masked():
		return "", place(fmt.Sprintf("%s has bits behind its prefix", c), fmt.Sprintf("write SUBNET %s, or IP %s for the one address", c.Masked(), c.Addr()))
	}
	p.next()
	return c.String(), nil
}

func subnetHint(s string) string {
	addr, bits, found := strings.Cut(s, "/")
	if m, err := netip.ParseAddr(bits); found && err == nil && m.Is4() {
		if n, err := maskBits(m); err == nil {
			return fmt.Sprintf("write the length of the prefix, as SUBNET %.50s/%d", addr, n)
		}
	}
	return "write it as 10.8.0.0/16 or fd22::/64"
}

// maskBits is the prefix length of a netmask.
func maskBits(mask netip.Addr) (int, error) {
	n := 0
	ended := false
	for _, b := range mask.AsSlice() {
		for i := 7; i >= 0; i-- {
			switch one := b>>i&1 == 1; {
			case one && ended:
				return 0, errors.New("no netmask")
			case one:
				n++
			default:
				ended = true
			}
		}
	}
	return n, nil
}

// sameFamily refuses addresses that packets of the protocol never have.
func (p *parser) sameFamily(s side, protocol string) error {
	if protocol != "icmp" && protocol != "icmp6" {
		return nil
	}
	for _, t := range s.targets {
		if t.Kind != api.TargetIP && t.Kind != api.TargetSubnet {
			continue
		}
		v6 := strings.Contains(t.Value, ":")
		switch {
		case v6 && protocol == "icmp":
			return p.fail(t.pos, "ICMP is of IPv4, this address is IPv6", "write ICMP6; its types are others: echo request is TYPE 128")
		case !v6 && protocol == "icmp6":
			return p.fail(t.pos, "ICMP6 is of IPv6, this address is IPv4", "write ICMP; its types are others: echo request is TYPE 8")
		}
	}
	return nil
}
