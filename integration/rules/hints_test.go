package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// destroys matches a command that destroys something, as a hint would name it.
var destroys = regexp.MustCompile(`nereid [a-z- ]*(reset|forget|delete|destroy|wipe)\b`)

// TestNoHintDestroys: no text of the programs tells an operator to run a command
// that destroys something. Help, which says what each command does, names them all.
func TestNoHintDestroys(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(root(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, 0)
		if err != nil {
			return err
		}
		seen++
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.KeyValueExpr: // help of a command
				k, ok := n.Key.(*ast.Ident)
				return !ok || k.Name != "Example" && k.Name != "Long" && k.Name != "examples"
			case *ast.BasicLit:
				if n.Kind == token.STRING && destroys.MatchString(n.Value) {
					t.Errorf("%s: a hint destroys something: %s", fset.Position(n.Pos()), n.Value)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 100 {
		t.Errorf("only %d files were looked at", seen)
	}
}
