package hints

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Hint is a command that a text names.
type Hint struct {
	At    string   // file and line
	Words []string // "nereid", "server", "list"
}

// Find gives the commands of a program that are named in the strings below the
// directories, tests aside.
func Find(program string, dirs ...string) ([]Hint, error) {
	var out []Hint
	fset := token.NewFileSet()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				text, ok := textOf(n)
				for _, words := range commands(program, text) {
					out = append(out, Hint{fset.Position(n.Pos()).String(), words})
				}
				return !ok // the parts of a text were read with it
			})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// textOf is what a string, or a sum with strings in it, says. What is known only
// when the program runs is X.
func textOf(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.BasicLit:
		if n.Kind == token.STRING {
			s, err := strconv.Unquote(n.Value)
			return s, err == nil
		}
	case *ast.ParenExpr:
		return textOf(n.X)
	case *ast.BinaryExpr:
		x, okX := textOf(n.X)
		y, okY := textOf(n.Y)
		if n.Op != token.ADD || !okX && !okY {
			return "", false
		}
		if !okX {
			x = unknown
		}
		if !okY {
			y = unknown
		}
		return x + y, true
	}
	return "", false
}

// unknown stands for what is known only when the program runs.
const unknown = "X"

var (
	verb   = regexp.MustCompile(`%[-+# 0]*[0-9.*]*[a-zA-Z]`)
	ending = "\n;,)`\"|#&>"
)

// commands gives the words of each command in a text. A text that begins with the
// program's name is a command; inside of a text one stands behind a colon, a
// quote, a bracket or one of a few words.
func commands(program, text string) [][]string {
	var out [][]string
	text = verb.ReplaceAllString(text, unknown)
	for at := 0; ; {
		i := strings.Index(text[at:], program+" ")
		if i < 0 {
			return out
		}
		begin := at + i
		at = begin + len(program) + 1
		if !introduced(text[:begin]) {
			continue
		}
		rest := text[begin:]
		if end := strings.IndexAny(rest, ending); end >= 0 {
			rest = rest[:end]
		}
		rest, _, _ = strings.Cut(rest, " (")
		rest, _, _ = strings.Cut(rest, ". ")
		rest, _, _ = strings.Cut(rest, ": ")
		rest, _, _ = strings.Cut(rest, "  ")
		for _, word := range []string{" again", " and ", " or ", " on the ", " with ", " made", " says ", " prints ", " printed", " draws "} {
			rest, _, _ = strings.Cut(rest, word)
		}
		words := strings.Fields(strings.TrimRight(rest, ".:?"))
		if len(words) > 1 {
			out = append(out, words)
		}
	}
}

func introduced(before string) bool {
	if strings.TrimLeft(before, " \n") == "" {
		return true
	}
	for _, s := range []string{": ", `"`, "`", "(", "\n", "\n    ", "run ", "or ", "with ", "see ", "and ", "sudo ", "by "} {
		if strings.HasSuffix(before, s) {
			return true
		}
	}
	return false
}

// Try reads a command as the program would. For a noun or a verb that is known only
// when the program runs each that there is is tried, and one has to do.
func Try(root *cobra.Command, words []string) error {
	for i := 1; i < min(len(words), 3); i++ {
		if words[i] != unknown {
			continue
		}
		parent, _, err := root.Find(words[1:i])
		if err != nil {
			return err
		}
		if !parent.HasSubCommands() {
			break // the argument of a command without a verb
		}
		for _, c := range parent.Commands() {
			if err = Try(root, slices.Concat(words[:i], []string{c.Name()}, words[i+1:])); err == nil {
				return nil
			}
		}
		return fmt.Errorf("no command of %s can be meant by %q: %w", parent.CommandPath(), words, err)
	}
	cmd, rest, err := root.Find(words[1:])
	if err != nil {
		return err
	}
	if cmd.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		return fmt.Errorf("%s has no command %q", cmd.CommandPath(), rest[0])
	}
	if err := cmd.ParseFlags(rest); errors.Is(err, pflag.ErrHelp) {
		return nil
	} else if err != nil || cmd.HasSubCommands() {
		return err
	}
	if len(cmd.Flags().Args()) == 0 {
		return nil // the command itself is named, not how it is typed
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}
