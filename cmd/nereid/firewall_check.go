package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
	"nereid/headnode/firewall"
)

// Bounds of a file of rules.
const (
	maxRuleFile   = 4 << 20 // bytes
	maxRuleFaults = 1000    // printed in full
)

// checkedRule is what "firewall check" prints of a rule.
type checkedRule struct {
	Line   int            `json:"line,omitempty"` // of the file
	Rule   string         `json:"rule"`           // canonical form
	Parsed api.ParsedRule `json:"parsed"`
}

func (a *app) firewallCheck() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "check {RULE... | - | --file FILE}",
		Short: "Read a rule and print what it means, or where it is wrong",
		Long: `Reads a firewall rule and prints it in parts and in canonical form, the form the head node stores. It asks no head node.
A rule that is not valid is printed with the place, what was expected there, and what was probably meant; the exit code is 2.

  FROM targets TO targets ALLOW|BLOCK protocol [PRIORITY 0-100]

  targets    ANY, ALL VMS, one target, or several: (target OR target ...)
  target     IP address, SUBNET cidr, VM uuid, TAG name, TAG name = value;
             names in "..." where they are no plain words
  protocol   TCP or UDP with PORT 80, PORT ALL, PORTS 80, 8000-8100 or
             (PORT 80 AND PORT 443);
             ICMP or ICMP6 with TYPE 8, TYPE 8 CODE 0, TYPE ALL or
             (TYPE 3 AND TYPE 8);
             AH, ESP

With no rule, what comes in is blocked and what goes out is allowed. Of the rules that match, the highest priority decides; at the
same priority ALLOW does inwards and BLOCK outwards.

A file, or with - the standard input, holds one rule a line; # begins a comment. All faults in it are listed.`,
		Example: lines("nereid firewall check 'FROM any TO tag web ALLOW tcp PORT 443'",
			`nereid firewall check 'FROM tag role = db TO (subnet 10.2.0.0/16 OR ip fd22::1) BLOCK tcp PORTS 25, 8000-8100 PRIORITY 5'`,
			"nereid firewall check -o json 'FROM any TO all vms ALLOW icmp (TYPE 8 CODE 0 AND TYPE 3)' | jq .parsed.types",
			"nereid firewall check --file rules.txt"),
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 && file == "":
				return fmt.Errorf("%s: RULE is missing; give a rule in quotes, - to read rules from standard input, or --file", cmd.CommandPath())
			case len(args) > 0 && file != "":
				return fmt.Errorf("%s: a rule and --file; give one of them", cmd.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: completeRule,
		RunE: func(_ *cobra.Command, args []string) error {
			if file != "" || slices.Equal(args, []string{"-"}) {
				return a.checkRuleFile(firstOf(file, "-"))
			}
			parsed, err := firewall.Parse(strings.Join(args, " "))
			if err != nil {
				return usagef("the rule is not valid: %w", err)
			}
			r := checkedRule{Rule: firewall.Format(parsed), Parsed: parsed}
			return a.emit(r, func(w io.Writer) error { return a.ruleCard(w, r) })
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "read rules from this file, one a line; - is standard input")
	_ = cmd.MarkFlagFilename("file")
	return cmd
}

// completeRule offers the keywords that can follow a rule typed without quotes.
func completeRule(_ *cobra.Command, args []string, part string) ([]cobra.Completion, cobra.ShellCompDirective) {
	text := strings.Join(args, " ")
	expected := []string{"PRIORITY"} // of a rule that could end here
	if _, err := firewall.Parse(text); err != nil {
		var at *firewall.SyntaxError
		if !errors.As(err, &at) || at.Offset < len(text) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		expected = at.Expected
	}
	var out []cobra.Completion
	for _, e := range expected {
		word, _, _ := strings.Cut(e, " ") // ALL of ALL VMS
		switch {
		case strings.Trim(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZ6") != "":
			continue // no keyword
		case part != "" && part == strings.ToLower(part):
			word = strings.ToLower(word)
		}
		out = append(out, word)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// checkRuleFile checks the rules of a file.
func (a *app) checkRuleFile(name string) error {
	in := a.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("read rules: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxRuleFile+1))
	if err != nil {
		return fmt.Errorf("read rules: %w", err)
	}
	if len(b) > maxRuleFile {
		return usagef("read rules: more than %s; split the file", size(maxRuleFile))
	}
	rules, faults := checkRules(string(b))
	if n := len(faults); n > 0 {
		if n > maxRuleFaults {
			faults = append(faults[:maxRuleFaults], fmt.Sprintf("and %s", api.Plural(n-maxRuleFaults, "more fault")))
		}
		return usagef("not valid: %d of %s\n  %s", n, api.Plural(n+len(rules), "rule"), strings.ReplaceAll(strings.Join(faults, "\n"), "\n", "\n  "))
	}
	return a.emit(rules, func(w io.Writer) error {
		if len(rules) == 0 {
			_, err := fmt.Fprintln(w, "There are no rules in it.")
			return err
		}
		t := a.table("LINE", "RULE")
		t.prose = true
		for _, r := range rules {
			t.add(number("%d", r.Line), cell{text: r.Rule}) // with the spaces its names have
		}
		return t.write(w)
	})
}

// checkRules reads rules, one a line.
func checkRules(text string) (rules []checkedRule, faults []string) {
	rules = []checkedRule{}
	n := 0
	for line := range strings.SplitSeq(text, "\n") {
		n++
		line = withoutComment(line)
		if strings.TrimSpace(line) == "" {
			continue
		}
		parsed, err := firewall.Parse(line)
		if err != nil {
			faults = append(faults, fmt.Sprintf("line %d, %v", n, err))
			continue
		}
		rules = append(rules, checkedRule{Line: n, Rule: firewall.Format(parsed), Parsed: parsed})
	}
	return rules, faults
}

// withoutComment cuts a line at a # that stands outside quotes.
func withoutComment(line string) string {
	quoted := false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == '#' && !quoted:
			return line[:i]
		}
	}
	return line
}
