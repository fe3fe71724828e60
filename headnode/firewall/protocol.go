package firewall

import (
	"fmt"
	"strings"

	"nereid/api"
)

// allPorts is PORT ALL.
func allPorts() []api.PortRange { return []api.PortRange{{First: 1, Last: 65535}} }

// protocol reads the protocol with its ports or types. after is what else could
// have stood behind them.
func (p *parser) protocol(r *api.ParsedRule) (after []string, err error) {
	name := p.tok.keyword
	switch name {
	case "TCP", "UDP":
		p.next()
		r.Ports, after, err = p.ports()
	case "ICMP", "ICMP6":
		p.next()
		r.Types, after, err = p.types()
	case "AH", "ESP":
		p.next()
	default:
		return nil, p.unexpected("TCP", "UDP", "ICMP", "ICMP6", "AH", "ESP")
	}
	r.Protocol = strings.ToLower(name)
	return after, err
}

// ports reads PORT n, PORT ALL, a list in parentheses, or PORTS.
func (p *parser) ports() (ports []api.PortRange, after []string, err error) {
	switch {
	case p.tok.is("("):
		p.next()
		ports, err = listOf(p, "PORT", "ports", p.port)
		return mergePorts(ports), nil, err
	case p.take("PORTS"):
		if p.take("ALL") {
			return allPorts(), nil, nil
		}
		for {
			if len(ports) == MaxItems {
				return nil, nil, p.tooMany("ports")
			}
			r, err := p.portRange()
			if err != nil {
				return nil, nil, err
			}
			ports = append(ports, r)
			if !p.tok.is(",") {
				return mergePorts(ports), []string{`","`}, nil
			}
			p.next()
		}
	case p.take("PORT"):
		if p.take("ALL") {
			return allPorts(), nil, nil
		}
		r, err := p.port()
		return []api.PortRange{r}, nil, err
	}
	return nil, nil, p.unexpected("PORT", "PORTS", `"("`)
}

// types reads TYPE n, TYPE ALL, or a list in parentheses.
func (p *parser) types() (types []api.ICMPType, after []string, err error) {
	switch {
	case p.tok.is("("):
		p.next()
		types, err = listOf(p, "TYPE", "types", p.icmpType)
		return mergeTypes(types), nil, err
	case p.take("TYPE"):
		if p.take("ALL") {
			return nil, nil, nil
		}
		t, err := p.icmpType()
		if t.Code == nil {
			after = []string{"CODE"}
		}
		return []api.ICMPType{t}, after, err
	}
	return nil, nil, p.unexpected("TYPE", `"("`)
}

// listOf reads items that a keyword begins and AND joins, up to the closing
// parenthesis. ALL, alone, is one that every item merges into.
func listOf[T any](p *parser, keyword, plural string, item func() (T, error)) ([]T, error) {
	var items []T
	for {
		if err := p.expect(keyword); err != nil {
			return nil, err
		}
		if len(items) == MaxItems {
			return nil, p.tooMany(plural)
		}
		if p.tok.keyword == "ALL" {
			if len(items) > 0 {
				return nil, p.fail(p.tok.pos, "ALL cannot be one of several", fmt.Sprintf("write %s ALL alone", keyword))
			}
			p.next()
			return nil, p.expect(")")
		}
		it, err := item()
		if err != nil {
			return nil, err
		}
		items = append(items, it)
		if p.tok.is(")") {
			p.next()
			return items, nil
		}
		if err := p.expect("AND", `")"`); err != nil {
			return nil, err
		}
	}
}

func (p *parser) tooMany(what string) error {
	hint := "split the rule"
	if what == "ports" {
		hint += ", or join ports to ranges: PORTS 8000-8100"
	}
	return p.fail(p.tok.pos, fmt.Sprintf("more than %d %s", MaxItems, what), hint)
}

func (p *parser) port() (api.PortRange, error) {
	n, err := p.number("port", 1, 65535)
	return api.PortRange{First: uint16(n), Last: uint16(n)}, err
}

// portRange reads n or n-m, where white space may stand around the dash.
func (p *parser) portRange() (api.PortRange, error) {
	var r api.PortRange
	if p.tok.kind != tokenWord || p.reserved() {
		return r, p.unexpected("a port", "a range of ports")
	}
	first, s := p.tok, p.tok.text
	for range 2 { // "n", "-", "m" at most
		n := lex(p.text, p.tok.end)
		if n.kind != tokenWord || !strings.HasSuffix(s, "-") && n.text[0] != '-' {
			break
		}
		s += n.text
		p.next()
	}
	last := p.tok
	low, high, isRange := strings.Cut(s, "-")
	if !isDigits(low) || isRange && !isDigits(high) {
		return r, p.fail(first.pos, fmt.Sprintf("%.40q is no port and no range", s), "write 80, or 8000-8100")
	}
	p.tok = first // what is wrong is wrong there
	a, err := p.parseNumber(low, "port", 1, 65535)
	if err != nil {
		return r, err
	}
	b := a
	if isRange {
		p.tok.pos = last.end - len(high)
		if b, err = p.parseNumber(high, "port", 1, 65535); err != nil {
			return r, err
		}
	}
	if a > b {
		return r, p.fail(first.pos, fmt.Sprintf("the range %d-%d is upside down", a, b), fmt.Sprintf("write %d-%d", b, a))
	}
	p.tok = last
	p.next()
	return api.PortRange{First: uint16(a), Last: uint16(b)}, nil
}

func (p *parser) icmpType() (api.ICMPType, error) {
	n, err := p.number("type", 0, 255)
	t := api.ICMPType{Type: uint8(n)}
	if err != nil || !p.take("CODE") {
		return t, err
	}
	c, err := p.number("code", 0, 255)
	code := uint8(c)
	t.Code = &code
	return t, err
}
