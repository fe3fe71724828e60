package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// helpWidth is how wide help may be: as wide as the least terminal.
const helpWidth = 80

// fitHelp wraps the help of a command, and of all below it.
func fitHelp(c *cobra.Command) {
	c.Long = reflow(c.Long, helpWidth)
	for _, sub := range c.Commands() {
		fitHelp(sub)
	}
}

// fitFlags has the flags of every command wrap.
func fitFlags(root *cobra.Command) {
	t := strings.ReplaceAll(root.UsageTemplate(), "FlagUsages ", "FlagUsagesWrapped 80 ")
	root.SetUsageTemplate(strings.ReplaceAll(t, `Use "{{.CommandPath}} [command] --help" for more information about a command.`,
		"More about a command: {{.CommandPath}} COMMAND --help"))
}

// reflow wraps the paragraphs of a text. Lines that begin with spaces stay as
// they are.
func reflow(text string, width int) string {
	var out, paragraph []string
	flush := func() {
		if len(paragraph) > 0 {
			out = append(out, wrap(strings.Join(paragraph, " "), width)...)
			paragraph = nil
		}
	}
	for line := range strings.SplitSeq(text, "\n") {
		if line == "" || strings.HasPrefix(line, " ") {
			flush()
			out = append(out, line)
			continue
		}
		paragraph = append(paragraph, line)
	}
	flush()
	return strings.Join(out, "\n")
}
