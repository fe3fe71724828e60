package firewall

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	vmA = "163dcedb-828d-43c9-b076-625423250ee2"
	vmB = "04128191-d2cb-43fc-a970-e4deefe970d8"
)

// canonicals are rules and their canonical form. Most are of Triton's fwrule(7)
// and of its tests' kind.
var canonicals = []struct{ rule, want string }{
	{"FROM any TO all vms ALLOW tcp PORT 22", ""},
	{"from ANY to All Vms allow TCP port 22", "FROM any TO all vms ALLOW tcp PORT 22"},
	{"\ufeff FROM\tany\r\n\u00a0TO all\nvms ALLOW tcp PORT 22\n", "FROM any TO all vms ALLOW tcp PORT 22"},
	{"FROM (any) TO ( all vms ) ALLOW tcp (PORT 22)", "FROM any TO all vms ALLOW tcp PORT 22"},
	{"FROM any TO vm " + strings.ToUpper(vmA) + " ALLOW tcp PORT 80", "FROM any TO vm " + vmA + " ALLOW tcp PORT 80"},
	{"FROM all vms TO (ip FD22::0:1234 OR ip 10.2.0.1) BLOCK tcp PORT 25", "FROM all vms TO (ip 10.2.0.1 OR ip fd22::1234) BLOCK tcp PORT 25"},
	{"FROM subnet 10.8.0.0 /16 TO vm " + vmA + " ALLOW tcp PORT 443", "FROM subnet 10.8.0.0/16 TO vm " + vmA + " ALLOW tcp PORT 443"},
	{"FROM subnet fd22::/64 TO vm " + vmA + " ALLOW tcp PORT 443", ""},
	{"FROM (subnet 10.0.0.0/8 OR subnet 9.0.0.0/8 OR subnet 10.0.0.0/16) TO tag \"a\" ALLOW tcp PORT 1",
		"FROM (subnet 9.0.0.0/8 OR subnet 10.0.0.0/8 OR subnet 10.0.0.0/16) TO tag \"a\" ALLOW tcp PORT 1"},
	{"FROM all vms TO tag syslog ALLOW udp PORT 514", `FROM all vms TO tag "syslog" ALLOW udp PORT 514`},
	{"FROM tag role = db TO tag role=www ALLOW tcp PORT 5432", `FROM tag "role" = "db" TO tag "role" = "www" ALLOW tcp PORT 5432`},
	{`FROM all vms TO tag "VM type" = "LDAP server" ALLOW tcp PORT 389`, ""},
	{`FROM tag "from" TO tag "all" = "" ALLOW ah`, ""},
	{`FROM tag "a\"b\\c\/d\(e\)" TO any BLOCK esp`, `FROM tag "a\"b\\c/d(e)" TO any BLOCK esp`},
	{`FROM tag "\u0000\b\f\n\r\t\u00a0\u200b\ufeff\ud83d\ude00\udb40\udc01é" TO any BLOCK esp`, `FROM tag "\u0000\b\f\n\r\t\u00a0\u200b\ufeff😀\udb40\udc01é" TO any BLOCK esp`},
	{"FROM (vm " + vmA + " OR tag db OR ip 10.0.0.2 OR tag db OR tag db = x OR subnet 10.3.0.0/24 OR vm " + vmB + " OR ip 10.0.0.2) TO any BLOCK tcp PORT 443",
		`FROM (ip 10.0.0.2 OR subnet 10.3.0.0/24 OR tag "db" OR vm ` + vmB + " OR vm " + vmA + ") TO any BLOCK tcp PORT 443"},
	{`FROM tag "a b" = "c d" TO (vm ` + vmA + " OR ip 10.0.0.1) BLOCK tcp (PORT 22 AND PORT 80)", `FROM tag "a b" = "c d" TO (ip 10.0.0.1 OR vm ` + vmA + ") BLOCK tcp (PORT 22 AND PORT 80)"},
	{"FROM tag www TO any ALLOW tcp (port 443 AND port 80 AND port 443)", `FROM tag "www" TO any ALLOW tcp (PORT 80 AND PORT 443)`},
	{"FROM tag www TO any ALLOW tcp ports 80, 443 ,8000-8100,8050 - 8200, 5 -6,7- 8", `FROM tag "www" TO any ALLOW tcp PORTS 5-6, 7-8, 80, 443, 8000-8200`},
	{"FROM tag www TO any ALLOW tcp PORTS 1-100, 5-6", `FROM tag "www" TO any ALLOW tcp PORTS 1-100`},
	{"FROM tag www TO any ALLOW tcp PORTS 80", `FROM tag "www" TO any ALLOW tcp PORT 80`},
	{"FROM tag www TO any ALLOW tcp PORTS 1-65535", `FROM tag "www" TO any ALLOW tcp PORT ALL`},
	{"FROM tag www TO any ALLOW udp (PORT ALL)", `FROM tag "www" TO any ALLOW udp PORT ALL`},
	{"FROM tag www TO any ALLOW udp PORTS all", `FROM tag "www" TO any ALLOW udp PORT ALL`},
	{"FROM any TO all vms ALLOW icmp TYPE 8 CODE 0", ""},
	{"FROM any TO all vms ALLOW icmp (TYPE 8 CODE 0 AND TYPE 3)", "FROM any TO all vms ALLOW icmp (TYPE 3 AND TYPE 8 CODE 0)"},
	{"FROM any TO all vms ALLOW icmp (TYPE 3 CODE 4 AND TYPE 3 CODE 1 AND TYPE 3 CODE 4)", "FROM any TO all vms ALLOW icmp (TYPE 3 CODE 1 AND TYPE 3 CODE 4)"},
	{"FROM any TO all vms ALLOW icmp (TYPE 3 CODE 4 AND TYPE 3 AND TYPE 3 CODE 1)", "FROM any TO all vms ALLOW icmp TYPE 3"},
	{"FROM any TO all vms ALLOW icmp6 TYPE 128 CODE 0", ""},
	{"FROM any TO all vms ALLOW icmp6 (type all)", "FROM any TO all vms ALLOW icmp6 TYPE ALL"},
	{"FROM ip fd00::1 TO tag x BLOCK icmp6 TYPE 255 CODE 255 PRIORITY 100", `FROM ip fd00::1 TO tag "x" BLOCK icmp6 TYPE 255 CODE 255 PRIORITY 100`},
	{"FROM any TO all vms ALLOW tcp PORT 22 PRIORITY 0", "FROM any TO all vms ALLOW tcp PORT 22"},
	{"FROM any TO all vms ALLOW tcp PORT 0022 PRIORITY 007", "FROM any TO all vms ALLOW tcp PORT 22 PRIORITY 7"},
	{"FROM (" + strings.Repeat("tag x OR ", MaxTargets-1) + "tag y) TO any BLOCK ah", `FROM (tag "x" OR tag "y") TO any BLOCK ah`},
	{"FROM ip 224.0.0.5 TO all vms ALLOW ah", ""},
}

func TestCanonical(t *testing.T) {
	for _, tt := range canonicals {
		want := tt.want
		if want == "" {
			want = tt.rule
		}
		r, err := Parse(tt.rule)
		if err != nil {
			t.Errorf("Parse(%q): %v", tt.rule, err)
			continue
		}
		if got := Format(r); got != want {
			t.Errorf("Format(Parse(%q)):\n got %s\nwant %s", tt.rule, got, want)
		}
		again, err := Parse(want)
		if diff := cmp.Diff(r, again); err != nil || diff != "" {
			t.Errorf("Parse(%q): %v, differs from the first:\n%s", want, err, diff)
		}
	}
}

func TestParsed(t *testing.T) {
	value, code := "db", uint8(0)
	tests := map[string]api.ParsedRule{
		"FROM (tag role = db OR ip fd00::1) TO all vms ALLOW tcp PORTS 80, 1-3 PRIORITY 5": {
			From:   []api.RuleTarget{{Kind: api.TargetIP, Value: "fd00::1"}, {Kind: api.TargetTag, Value: "role", TagValue: &value}},
			To:     []api.RuleTarget{{Kind: api.TargetAllVMs}},
			Action: "allow", Protocol: "tcp", Ports: []api.PortRange{{First: 1, Last: 3}, {First: 80, Last: 80}}, Priority: 5},
		"FROM vm " + vmA + " TO any BLOCK icmp (TYPE 8 CODE 0 AND TYPE 0)": {
			From:   []api.RuleTarget{{Kind: api.TargetVM, Value: vmA}},
			To:     []api.RuleTarget{{Kind: api.TargetAny}},
			Action: "block", Protocol: "icmp", Types: []api.ICMPType{{Type: 0}, {Type: 8, Code: &code}}},
		"FROM any TO tag t ALLOW icmp6 TYPE ALL": {
			From:   []api.RuleTarget{{Kind: api.TargetAny}},
			To:     []api.RuleTarget{{Kind: api.TargetTag, Value: "t"}},
			Action: "allow", Protocol: "icmp6"},
		"FROM subnet 10.0.0.0/8 TO tag t ALLOW udp PORT ALL": {
			From:   []api.RuleTarget{{Kind: api.TargetSubnet, Value: "10.0.0.0/8"}},
			To:     []api.RuleTarget{{Kind: api.TargetTag, Value: "t"}},
			Action: "allow", Protocol: "udp", Ports: []api.PortRange{{First: 1, Last: 65535}}},
	}
	for text, want := range tests {
		got, err := Parse(text)
		if err != nil {
			t.Errorf("Parse(%q): %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Parse(%q): -want +got\n%s", text, diff)
		}
	}
}

// faults are rules that are not valid, in the order of the golden file.
var faults = []string{
	"",
	"TO any",
	"FROM any",
	"FROM any TO tag web DENY tcp PORT 80",
	"FROM 10.0.0.1 TO all vms ALLOW tcp PORT 22",
	"FROM 10.0.0.0/8 TO all vms ALLOW tcp PORT 22",
	"FROM " + vmA + " TO all vms ALLOW tcp PORT 22",
	`FROM "web" TO all vms ALLOW tcp PORT 22`,
	"FROM (any OR ip 10.0.0.1) TO all vms ALLOW tcp PORT 22",
	"FROM (ip 10.0.0.1 OR any) TO all vms ALLOW tcp PORT 22",
	"FROM (ip 10.0.0.1 OR all vms) TO all vms ALLOW tcp PORT 22",
	"FROM (any ip 10.0.0.1) TO all vms ALLOW tcp PORT 22",
	"FROM (tag a AND tag b) TO any BLOCK tcp PORT 22",
	"FROM (tag a tag b) TO any BLOCK tcp PORT 22",
	"FROM (tag a OR) TO any BLOCK tcp PORT 22",
	"FROM tag a OR tag b TO any BLOCK tcp PORT 22",
	"FROM tag a, tag b TO any BLOCK tcp PORT 22",
	"FROM any TO tag a AND tag b ALLOW tcp PORT 22",
	"FROM any TO any ALLOW tcp PORT 1",
	"FROM ip 10.0.0.1 TO subnet 10.0.0.0/8 ALLOW tcp PORT 1",
	"FROM ip 0.0.0.0 TO all vms ALLOW tcp PORT 1",
	"FROM ip 255.255.255.255 TO all vms ALLOW tcp PORT 1",
	"FROM ip :: TO all vms ALLOW tcp PORT 1",
	"FROM ip ::ffff:10.0.0.1 TO all vms ALLOW tcp PORT 1",
	"FROM ip fe80::1%eth0 TO all vms ALLOW tcp PORT 1",
	"FROM ip 10.0.0.0/8 TO all vms ALLOW tcp PORT 1",
	"FROM ip 10.0.0.300 TO all vms ALLOW tcp PORT 1",
	"FROM ip TO all vms ALLOW tcp PORT 1",
	"FROM subnet 10.0.0.1/8 TO all vms ALLOW tcp PORT 1",
	"FROM subnet fd00::1/64 TO all vms ALLOW tcp PORT 1",
	"FROM subnet 0.0.0.0/0 TO all vms ALLOW tcp PORT 1",
	"FROM subnet ::/0 TO all vms ALLOW tcp PORT 1",
	"FROM subnet ::ffff:10.0.0.0/104 TO all vms ALLOW tcp PORT 1",
	"FROM subnet 10.0.0.0/255.255.0.0 TO all vms ALLOW tcp PORT 1",
	"FROM subnet 10.0.0.0/255.0.255.0 TO all vms ALLOW tcp PORT 1",
	"FROM subnet 10.0.0.0/33 TO all vms ALLOW tcp PORT 1",
	"FROM subnet 10.0.0.1 TO all vms ALLOW tcp PORT 1",
	"FROM ip fd00::1 TO all vms ALLOW icmp TYPE 8",
	"FROM (ip 10.0.0.1 OR subnet fd00::/64) TO all vms ALLOW icmp6 TYPE 128",
	"FROM any TO all ALLOW tcp PORT 1",
	"FROM any TO vms ALLOW tcp PORT 1",
	"FROM any TO vm foo ALLOW tcp PORT 1",
	"FROM any TO tag ALLOW tcp PORT 1",
	"FROM any TO tag a = ALLOW tcp PORT 1",
	"FROM any TO tag foo.bar ALLOW tcp PORT 1",
	"FROM any TO tag 'foo bar' ALLOW tcp PORT 1",
	`FROM any TO tag "foo ALLOW tcp PORT 1`,
	`FROM any TO tag "a\q" ALLOW tcp PORT 1`,
	`FROM any TO tag "\ud800x" ALLOW tcp PORT 1`,
	`FROM any TO tag "\udc00" ALLOW tcp PORT 1`,
	`FROM any TO tag "" ALLOW tcp PORT 1`,
	"FROM any TO tag " + strings.Repeat("t", MaxName+1) + " ALLOW tcp PORT 1",
	"FROM any TO tag \xff ALLOW tcp PORT 1",
	"FROM any TO tag \"\xff\" ALLOW tcp PORT 1",
	"FROM any TO tag \u201ca\u201d ALLOW tcp PORT 1",
	"FROM any TO tag caf\u00e9 ALLOW tcp PORT 1",
	"FROM any TO tag a\x1b[31m ALLOW tcp PORT 1",
	"FROM any TO all vms ALLOW tcp",
	"FROM any TO all vms ALLOW tcp 80",
	"FROM any TO all vms ALLOW tcp PORT 0",
	"FROM any TO all vms ALLOW tcp PORT 65536",
	"FROM any TO all vms ALLOW tcp PORT 99999999999999999999999999",
	"FROM any TO all vms ALLOW tcp PORT -1",
	"FROM any TO all vms ALLOW tcp PORT 80-90",
	"FROM any TO all vms ALLOW tcp PORT 80, 90",
	"FROM any TO all vms ALLOW tcp PORT 80 AND PORT 90",
	"FROM any TO all vms ALLOW tcp (PORT 80 OR PORT 90)",
	"FROM any TO all vms ALLOW tcp (PORT 80 AND PORT ALL)",
	"FROM any TO all vms ALLOW tcp PORTS 90-80",
	"FROM any TO all vms ALLOW tcp PORTS 80-x",
	"FROM any TO all vms ALLOW tcp PORTS 80,",
	"FROM any TO all vms ALLOW tcp PORTS 80-70000",
	"FROM any TO all vms ALLOW tcp PORTS 80 - 0",
	"FROM any TO all vms ALLOW tcp PORTS 80 - - 90",
	"FROM any TO all vms ALLOW icmp",
	"FROM any TO all vms ALLOW icmp TYPE 256",
	"FROM any TO all vms ALLOW icmp TYPE 8 CODE 256",
	"FROM any TO all vms ALLOW icmp TYPE 8 CODE",
	"FROM any TO all vms ALLOW icmp TYPE ALL CODE 3",
	"FROM any TO all vms ALLOW icmp PORT 8",
	"FROM any TO all vms ALLOW tcp TYPE 8",
	"FROM any TO all vms ALLOW any PORT 8",
	"FROM any TO all vms ALLOW icmpv6 TYPE 8",
	"FROM any TO all vms ALLOW ah PORT 8",
	"FROM any TO all vms ALLOW tcp PORT 1 PRIORITY 101",
	"FROM any TO all vms ALLOW tcp PORT 1 PRIORITY high",
	"FROM any TO all vms ALLOW tcp PORT 1 PRIORITY 3 x",
	"FROM any TO all vms ALLOW tcp PORT 1 LOG",
	"FROM any\n  TO tag \"\u00e9\"\n  ALLOW tcp POTR 1",
	"FROM any TO (" + strings.Repeat("tag x OR ", 24) + "tag y) ALLOW tcp PORT 1",
	"FROM any TO all vms ALLOW tcp PORTS " + strings.Repeat("1,", 30) + "1",
	"FROM any TO all vms ALLOW icmp (" + strings.Repeat("TYPE 1 AND ", 30) + "TYPE 1)",
}

// TestFaults compares what an operator sees with testdata/faults.golden.
func TestFaults(t *testing.T) {
	var b strings.Builder
	for _, text := range faults {
		_, err := Parse(text)
		var se *SyntaxError
		if !errors.As(err, &se) {
			t.Errorf("Parse(%q): %v, want a SyntaxError", text, err)
			continue
		}
		fmt.Fprintf(&b, "%v\n\n", err)
	}
	const golden = "testdata/faults.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("-want +got (go test -update writes it anew)\n%s", diff)
	}
}

// TestPosition: the byte, the line and the column of a fault are its own.
func TestPosition(t *testing.T) {
	text := "FROM any\n  TO tag \"\u00e9\u00e9\" = NO!\n  ALLOW tcp PORT 1"
	_, err := Parse(text)
	var se *SyntaxError
	if !errors.As(err, &se) {
		t.Fatalf("%v, want a SyntaxError", err)
	}
	if at := strings.Index(text, "!"); se.Offset != at || se.Line != 2 || se.Column != 19 {
		t.Errorf("offset %d, line %d, column %d; want %d, 2, 19", se.Offset, se.Line, se.Column, at)
	}
	_, err = Parse("FROM any TO all vms ALLOW tcp")
	if !errors.As(err, &se) || !cmp.Equal(se.Expected, []string{"PORT", "PORTS", `"("`}) {
		t.Errorf("%v, want PORT, PORTS and a parenthesis expected", err)
	}
}

// TestHugeRules: a rule with tens of thousands of tags is refused, in a few lines
// and in memory that does not grow with it.
func TestHugeRules(t *testing.T) {
	pattern := []string{
		"FROM (" + strings.Repeat("tag x OR ", 10_000) + "tag x) TO any BLOCK ah",
		"FROM (" + strings.Repeat("tag x OR ", 7_000) + "tag x) TO any BLOCK ah",
		"FROM any TO all vms ALLOW tcp PORTS " + strings.Repeat("1,", 32_000) + "1",
		"FROM any TO all vms ALLOW tcp PORTS 1" + strings.Repeat(" -", 32_000),
		strings.Repeat("(", MaxText),
		"FROM tag \"" + strings.Repeat(`\"`, MaxText/2-10) + "\" TO any BLOCK ah",
		"FROM tag \"" + strings.Repeat("\n", MaxText-40) + "\" TO any BLOCK ah",
		strings.Repeat("x", 50<<20),
	}
	for _, text := range pattern {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Parse(text)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 { // about 260 kB
			t.Errorf("%.40q... of %d bytes: %d bytes were allocated", text, len(text), n)
		}
		if err == nil {
			t.Errorf("%.40q... of %d bytes is taken", text, len(text))
			continue
		}
		if n := len(err.Error()); n > 1000 {
			t.Errorf("%.40q...: the error has %d bytes", text, n)
		}
	}

	// As long as it can be, and all of it escapes.
	var names []string
	for i := range MaxTargets {
		names = append(names, fmt.Sprintf("tag \"%03d%s\" = \"%s\"", i, strings.Repeat("\x01", 250), strings.Repeat("\x02", 250)))
	}
	_, err := Parse("FROM (" + strings.Join(names, " OR ") + ") TO any BLOCK ah")
	if err == nil || !strings.Contains(err.Error(), "in canonical form") {
		t.Errorf("a rule whose canonical form is too long: %v", err)
	}
}

// FuzzParse: what is taken comes out of its canonical form again, and what is
// not is wrong somewhere in the text.
func FuzzParse(f *testing.F) {
	for _, c := range canonicals {
		f.Add(c.rule)
	}
	for _, text := range faults {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := Parse(text)
		if err != nil {
			var se *SyntaxError
			if !errors.As(err, &se) {
				t.Fatalf("%T: %v", err, err)
			}
			if se.Offset < 0 || se.Offset > len(text) || se.Line < 1 || se.Column < 1 {
				t.Fatalf("offset %d, line %d, column %d in %d bytes", se.Offset, se.Line, se.Column, len(text))
			}
			lines := strings.Split(text, "\n")
			if se.Line > len(lines) || se.Column > len([]rune(lines[se.Line-1]))+1 {
				t.Fatalf("line %d, column %d is not in the text", se.Line, se.Column)
			}
			if strings.ContainsAny(err.Error(), "\x1b\r\u202e") {
				t.Fatalf("control characters in %q", err)
			}
			return
		}
		text = Format(r)
		again, err := Parse(text)
		if err != nil {
			t.Fatalf("canonical form %q: %v", text, err)
		}
		if diff := cmp.Diff(r, again); diff != "" {
			t.Fatalf("canonical form %q is another rule:\n%s", text, diff)
		}
		if s := Format(again); s != text {
			t.Fatalf("canonical form of %q is %q", text, s)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	text := `FROM (tag "role" = "db" OR ip 10.2.0.1 OR subnet fd22::/64) TO tag "role" = "www" ALLOW tcp (PORT 80 AND PORT 443) PRIORITY 3`
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}
