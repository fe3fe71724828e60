package answers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// question is one prompt; key is where the reply goes.
type question struct {
	key, text, dflt string
	list            bool

	reply string
}

// forget goes back to the default.
func (q *question) forget() { q.reply = q.dflt }

// Ask puts the questions to a person, each with a default taken by Enter, and
// shows what is wrong and asks those questions again until the answers are
// good and this machine, whose interfaces are here, has what they name; without
// here, nobody looks. The end of input is an error. It returns when in does; a cancelled ctx
// is noticed between questions.
func Ask(ctx context.Context, in io.Reader, out io.Writer, here []Interface) (Answers, error) {
	iface, address := suggest(here)
	qs := []question{
		{key: "datacenter", text: "Datacenter name", dflt: "coal"},
		{key: "dns_domain", text: "DNS domain of the servers (empty: none)", dflt: ""},
		{key: "admin.interface", text: "Network interface on the admin network", dflt: iface},
		{key: "admin.address", text: "Head node's address there, with prefix length", dflt: address},
		{key: "admin.range", text: "First and last address for servers", dflt: rangeBeside(address), list: true},
		{key: "admin.gateway", text: "Gateway (empty: none)", dflt: ""},
		{key: "admin.dns", text: "Name servers (empty: none)", dflt: "", list: true},
		{key: "admin.ntp", text: "Time servers (empty: none)", dflt: "", list: true},
		{key: "admin.lease", text: "DHCP lease time", dflt: "12h"},
		{key: "admin.clients", text: "Who is answered, pxe or all", dflt: "pxe"},
	}
	lines := bufio.NewScanner(in)
	ask := map[string]bool{}
	for i := range qs {
		ask[qs[i].key] = true
		qs[i].forget()
	}
	fmt.Fprintln(out, "Enter takes the answer in brackets; a single dash empties it.")
	for {
		for i := range qs {
			q := &qs[i]
			if !ask[q.key] {
				continue
			}
			if err := ctx.Err(); err != nil {
				return Answers{}, err
			}
			fmt.Fprintf(out, "%s [%s]: ", q.text, q.dflt)
			if !lines.Scan() {
				if err := lines.Err(); err != nil {
					return Answers{}, fmt.Errorf("read reply: %w", err)
				}
				return Answers{}, errors.New("the input ended before every question was answered; nothing was written; run init again or use --answers FILE")
			}
			if reply := strings.TrimSpace(lines.Text()); reply == "-" {
				q.reply = ""
			} else if reply != "" {
				q.reply = reply
			} else {
				q.forget()
			}
			if i+1 < len(qs) && qs[i+1].key == "admin.range" {
				qs[i+1].dflt = rangeBeside(q.reply)
			}
		}
		a, err := Parse(strings.NewReader(render(qs)), "replies")
		var f *Faults
		if err == nil && len(here) > 0 {
			f = &Faults{List: a.Admin.Missing(here)}
		} else if !errors.As(err, &f) {
			return a, err
		}
		if len(f.List) == 0 {
			return a, nil
		}
		ask = map[string]bool{}
		fmt.Fprintln(out)
		for _, x := range f.List {
			fmt.Fprintf(out, "  %s: %s\n", x.Key, x.Text)
			ask[x.Key] = true
		}
		fmt.Fprintf(out, "Please answer again.\n")
	}
}

// render writes replies as the file they stand for.
func render(qs []question) string {
	var top, admin strings.Builder
	for _, q := range qs {
		w, key := &top, q.key
		if k, ok := strings.CutPrefix(key, "admin."); ok {
			w, key = &admin, k
		}
		if !q.list {
			fmt.Fprintf(w, "%s = %s\n", key, quote(q.reply))
			continue
		}
		var items []string
		for _, s := range strings.FieldsFunc(q.reply, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' }) {
			items = append(items, quote(s))
		}
		fmt.Fprintf(w, "%s = [%s]\n", key, strings.Join(items, ", "))
	}
	return top.String() + "[admin]\n" + admin.String()
}

// quote writes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
