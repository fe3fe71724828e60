package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"nereid/api"
)

// nouns are the things that the programs count, and how several of them are called.
var nouns = map[string]string{
	"NIC": "NICs", "NIC tag": "NIC tags", "VNI": "VNIs", "account": "accounts", "address": "addresses", "bond": "bonds", "boot": "boots",
	"core": "cores", "column": "columns", "disk": "disks", "fabric VLAN": "fabric VLANs", "fault": "faults", "file": "files", "firewall rule": "firewall rules", "network address": "network addresses",
	"line": "lines", "mirror": "mirrors", "more line": "more lines", "more fault": "more faults", "network": "networks", "network pool": "network pools", "object": "objects", "platform": "platforms",
	"port forward": "port forwards", "rule": "rules", "second": "seconds", "server": "servers", "snapshot": "snapshots", "socket": "sockets", "spare": "spares", "thread": "threads",
	"fabric network": "fabric networks", "fabric port forward": "fabric port forwards", "package": "packages", "image": "images", "device node": "device nodes", "instance": "instances", "vcpu": "vcpus", "key": "keys", "more server": "more servers", "machine": "machines", "other thing": "other things",
}

// counted is a number and several of a thing in a format, where 1 would read
// "1 servers". Units, and limits ("at most %d disks"), are above 1.
var (
	counted = regexp.MustCompile(`(\S+ )?%d ((?:firewall|port|more|address) )?(servers|machines|addresses|networks|files|platforms|boots|faults|rules|NICs|accounts|forwards|disks|keys)\b`)
	limits  = regexp.MustCompile(`^(than|most|to|least|of|all|the) `)
	bounds  = regexp.MustCompile(`; want |at most `) // the number is outside of them
)

// TestCounts reads every source file of the programs: what they count is counted
// by api.Plural, which knows the noun.
func TestCounts(t *testing.T) {
	used := map[string]bool{}
	eachSource(t, func(path string, fset *token.FileSet, f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				sel, ok := n.Fun.(*ast.SelectorExpr)
				if !ok || sel.Sel.Name != "Plural" && sel.Sel.Name != "Plurals" {
					return true
				}
				if lit, ok := n.Args[len(n.Args)-1].(*ast.BasicLit); ok {
					noun, _ := strconv.Unquote(lit.Value)
					used[noun] = true
					if nouns[noun] == "" {
						t.Errorf("%s: %q is counted; say in nouns how several of them are called", fset.Position(n.Pos()), noun)
					}
				}
			case *ast.KeyValueExpr: // thing: "NIC tag", of a kind of object
				lit, ok := n.Value.(*ast.BasicLit)
				if key, isKey := n.Key.(*ast.Ident); ok && isKey && key.Name == "thing" {
					if noun, _ := strconv.Unquote(lit.Value); nouns[noun] == "" {
						t.Errorf("%s: %q is listed; say in nouns how several of them are called", fset.Position(n.Pos()), noun)
					}
				}
			case *ast.BasicLit:
				if s, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
					for _, m := range counted.FindAllString(s, -1) {
						if !limits.MatchString(m) && !bounds.MatchString(s) {
							t.Errorf("%s: %q reads wrong when there is one; use api.Plural", fset.Position(n.Pos()), m)
						}
					}
				}
			}
			return true
		})
	})
	for one, many := range nouns {
		if got := api.Plurals(one); got != many {
			t.Errorf("several of %q: %q, want %q", one, got, many)
		}
	}
	if len(used) < 10 {
		t.Errorf("only %d nouns are counted; does this test read the sources?", len(used))
	}
}

// eachSource parses every file of the module that is part of a program.
func eachSource(t *testing.T, do func(path string, fset *token.FileSet, f *ast.File)) {
	t.Helper()
	fset := token.NewFileSet()
	for _, dir := range []string{"api", "headnode", "bootserver", "images", "agent", "platform", "cmd"} {
		err := filepath.WalkDir(filepath.Join("../..", dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "test/") {
				return err
			}
			f, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
			if err == nil {
				do(path, fset, f)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
