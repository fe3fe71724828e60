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
}

// Ask puts the questions to a person, each with a default taken by Enter, and
// shows what is wrong and asks those questions again until the answers are
// good. The end of input is an error. It returns when in does; a cancelled ctx
// is noticed between questions.
func Ask(ctx context.Context, in io.Reader, out io.Writer) (Answers, error) {
	qs := []question{
		{"datacenter", "Datacenter name", "coal", false},
		{"dns_domain", "DNS domain of the servers (empty: none)", "", false},
		{"admin.interface", "Network interface on the admin network", "admin0", false},
		{"admin.address", "Head node's address there, with prefix length", "10.99.99.7/24", false},
		{"admin.range", "First and last address for servers", "10.99.99.100 10.99.99.250", true},
		{"admin.gateway", "Gateway (empty: none)", "", false},
		{"admin.dns", "Name servers (empty: none)", "", true},
		{"admin.ntp", "Time servers (empty: none)", "", true},
		{"admin.lease", "DHCP lease time", "12h", false},
		{"admin.clients", "Who is answered, pxe or all", "pxe", false},
	}
	lines := bufio.NewScanner(in)
	ask := map[string]bool{}
	for _, q := range qs {
		ask[q.key] = true
	}
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
				q.dflt = ""
			} else if reply != "" {
				q.dflt = reply
			}
		}
		a, err := Parse(strings.NewReader(render(qs)), "replies")
		var f *Faults
		if !errors.As(err, &f) {
			return a, err
		}
		ask = map[string]bool{}
		fmt.Fprintln(out)
		for _, x := range f.List {
			fmt.Fprintf(out, "  %s: %s\n", x.Key, x.Text)
			ask[x.Key] = true
		}
		fmt.Fprintf(out, "Please answer again (a single dash empties an answer).\n")
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
			fmt.Fprintf(w, "%s = %s\n", key, quote(q.dflt))
			continue
		}
		var items []string
		for _, s := range strings.FieldsFunc(q.dflt, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' }) {
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
