package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestReadme executes every nereid command of the README and of docs/, in the
// order of each file, against the head node itself and a machine that boots by
// it. A line that needs a Debian mirror and minutes is "make platform" to run.
func TestReadme(t *testing.T) {
	docs, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, doc := range append(docs, "../../README.md") {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		script, n := documentedCommands(string(text))
		if n == 0 {
			continue
		}
		name := strings.ToLower(strings.TrimSuffix(filepath.Base(doc), ".md")) + ".txtar"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := headnodeParams(t)
	p.Dir = dir
	testscript.Run(t, p)
}

// documentedCommands turns the indented command lines of a page into a script,
// and counts them. UUID and addresses are those of the pages.
func documentedCommands(text string) (string, int) {
	const uuid = "4e455245-4944-4000-8000-000000000010"
	n := 0
	var s strings.Builder
	fmt.Fprintln(&s, "platform ./platform 20261122T101500Z\nimage ./debian.tar.zst etc/os-release")
	if !strings.Contains(text, "nereid platform default") { // the page begins later
		fmt.Fprintf(&s, "exec nereid platform key add mine ./platform/manifest.pub\nexec nereid platform import ./platform\n"+
			"machine on 52:54:00:00:00:10 %s\nmachine await %s pending\n", uuid, uuid)
	}
	for line := range strings.SplitSeq(text, "\n") {
		line, indented := strings.CutPrefix(line, "    ")
		line = strings.TrimPrefix(line, "  ") // in a list
		line, _, _ = strings.Cut(line, " #")
		line = strings.TrimRight(strings.TrimPrefix(line, "$ "), " ")
		if !indented || !strings.HasPrefix(line, "nereid ") {
			continue
		}
		n++
		if strings.HasPrefix(line, "nereid platform build") {
			continue
		}
		line = strings.ReplaceAll(line, "UUID", uuid)
		switch {
		case strings.HasPrefix(line, "nereid platform default"):
			fmt.Fprintf(&s, "exec %s\nmachine on 52:54:00:00:00:10 %s\nmachine await %s pending\n", line, uuid, uuid)
		case strings.HasPrefix(line, "nereid server approve"):
			fmt.Fprintf(&s, "exec %s\nmachine await %s approved\n", line, uuid)
		case strings.HasPrefix(line, "nereid events"): // it would follow for ever
			fmt.Fprintf(&s, "exec %s --timeout 200ms\n", line)
		default:
			fmt.Fprintf(&s, "exec %s\n", line)
		}
	}
	return s.String(), n
}
