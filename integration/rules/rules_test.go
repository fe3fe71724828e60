package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// pkg is what the rules need of "go list -json".
type pkg struct {
	ImportPath string
	Dir        string
	Doc        string
	Name       string
	Imports    []string
	Deps       []string
	GoFiles    []string
	Standard   bool
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json"}, args...)...)
	cmd.Dir = root(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v\n%s", args, err, stderr.Bytes())
	}
	var ps []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		switch err := dec.Decode(&p); {
		case errors.Is(err, io.EOF):
			return ps
		case err != nil:
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// area is the part of the tree a package belongs to: "headnode" for itself,
// "headnode/*" for what lies below it.
func area(path string) string {
	parts := strings.Split(strings.TrimPrefix(path, "nereid/"), "/")
	switch {
	case parts[0] == "platform" && len(parts) > 1 && parts[1] == "stub":
		return "platform/stub"
	case len(parts) > 1 && slices.Contains([]string{"headnode", "agent", "bootserver"}, parts[0]):
		return parts[0] + "/*"
	}
	return parts[0]
}

// allowed says, for each area, which areas of this module it may import
// (DESIGN.md, section 3). An area may always import what lies below a package
// of its own, as bootserver/dhcp/x below bootserver/dhcp.
var allowed = map[string][]string{
	"api":           {},
	"fixtures":      {},
	"admit":         {}, // who may hold how much: headnode and bootserver, which do not import each other, both ask it
	"images":        {"api"},
	"headnode":      {"admit", "api", "headnode/*", "images"},
	"headnode/*":    {"admit", "api"},
	"bootserver":    {"admit", "api", "bootserver/*"},
	"bootserver/*":  {"admit", "api"},
	"agent":         {"api", "agent/*", "images"},
	"agent/*":       {"api"},
	"platform":      {"api", "images"},
	"platform/stub": {"api", "images"},
	"cmd":           {"api", "headnode", "headnode/*", "bootserver", "images", "agent", "agent/*", "platform", "platform/stub", "cmd"},
	"integration":   {"api", "images", "integration", "fixtures"},
}

// exceptions are single imports that the areas' rule does not cover, each with
// its reason.
var exceptions = map[[2]string]string{
	{"nereid/images/oci", "nereid/images/tree"}:                 "layers are flattened by what decides what an image may hold",
	{"nereid/agent/machine/zone", "nereid/agent/machine/mdata"}: "zones are answered beside the agent, by the program that starts them",
	{"nereid/agent/storage", "nereid/images/qcow2"}:             "so is what a qcow2 file may be",
	{"nereid/images/tree", "nereid/images/qcow2"}:               "a file is taken by what it is",
	{"nereid/agent/machine/vm", "nereid/agent/machine/qmp"}:     "what ends a machine's QEMU without the agent asks it as the agent does",
	{"nereid/agent/storage", "nereid/images/tree"}:              "what an image may hold is decided once, by the head node and again by the server",
}

func TestImportDirection(t *testing.T) {
	for _, p := range list(t, "./...") {
		from := area(p.ImportPath)
		may, known := allowed[from]
		if !known {
			t.Errorf("%s: no rule for %q: say in this test what it may import", p.ImportPath, from)
		}
		for _, imp := range p.Imports {
			if !strings.HasPrefix(imp, "nereid/") {
				if from == "api" && strings.Contains(imp, ".") {
					t.Errorf("%s imports %s: api imports the standard library only", p.ImportPath, imp)
				}
				continue
			}
			to := area(imp)
			if slices.Contains(may, to) || strings.HasPrefix(imp, p.ImportPath+"/") || exceptions[[2]string{p.ImportPath, imp}] != "" {
				continue
			}
			if from == "headnode/*" && (imp == "nereid/headnode/store" || imp == "nereid/headnode/journal" || strings.HasPrefix(p.ImportPath, "nereid/headnode/store")) {
				continue
			}
			t.Errorf("%s imports %s: %s may import %v", p.ImportPath, imp, from, may)
		}
	}
}

func TestStubStaysSmall(t *testing.T) {
	for _, p := range list(t, "./cmd/nereid-stub") {
		for _, dep := range p.Deps {
			for _, heavy := range []string{"github.com/spf13", "github.com/danielgtaylor", "go.etcd.io", "reflect2"} {
				if strings.HasPrefix(dep, heavy) {
					t.Errorf("the stub depends on %s: it is fetched by every boot", dep)
				}
			}
		}
	}
}

func TestPackagesAreDocumented(t *testing.T) {
	for _, p := range list(t, "./...") {
		if len(p.GoFiles) == 0 {
			continue
		}
		if p.Doc == "" {
			t.Errorf("%s: no package comment: say in one sentence what it is", p.ImportPath)
		} else if want := "Package " + p.Name + " "; p.Name != "main" && !strings.HasPrefix(p.Doc, want) {
			t.Errorf("%s: package comment begins %.30q: want %q", p.ImportPath, p.Doc, want)
		}
	}
}

func TestMainsAreRecipes(t *testing.T) {
	mains, err := filepath.Glob(filepath.Join(root(t), "cmd/*/main.go"))
	if err != nil || len(mains) < 4 {
		t.Fatalf("cmd/*/main.go: %d found, %v", len(mains), err)
	}
	for _, f := range mains {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(b, []byte("\n")); n > 150 {
			t.Errorf("%s: %d lines: a main is a recipe of at most 150", f, n)
		}
	}
}

func TestNoInit(t *testing.T) {
	for _, p := range list(t, "./...") {
		for _, f := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range file.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
					t.Errorf("%s/%s: func init: construct values in main instead", p.ImportPath, f)
				}
			}
		}
	}
}

// TestContextsComeFromMain: the functions of package context that take no
// argument make root contexts; the others derive one from another.
func TestContextsComeFromMain(t *testing.T) {
	for _, p := range list(t, "./...") {
		if p.Name == "main" || strings.HasPrefix(p.ImportPath, "nereid/integration") {
			continue
		}
		for _, f := range p.GoFiles {
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, filepath.Join(p.Dir, f), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok || len(call.Args) > 0 {
					return true
				}
				if fn, ok := call.Fun.(*ast.SelectorExpr); ok {
					if pkg, ok := fn.X.(*ast.Ident); ok && pkg.Name == "context" {
						t.Errorf("%s/%s: context.%s makes a root context outside main", p.ImportPath, set.Position(call.Pos()), fn.Sel.Name)
					}
				}
				return true
			})
		}
	}
}

func TestGofmt(t *testing.T) {
	cmd := exec.Command("gofmt", "-l", ".")
	cmd.Dir = root(t)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("gofmt: %v\n%s", err, out)
	}
	if len(out) > 0 {
		t.Errorf("gofmt wants these:\n%s", out)
	}
}

func TestVet(t *testing.T) {
	for _, tags := range []string{"", "netns", "vm"} {
		cmd := exec.Command("go", "vet", "-tags", tags, "./...")
		cmd.Dir = root(t)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("go vet -tags %q: %v\n%s", tags, err, out)
		}
	}
}

func TestAgentBuildsForIllumos(t *testing.T) {
	cmd := exec.Command("go", "build", "-o", os.DevNull, "./cmd/nereid-agent")
	cmd.Dir = root(t)
	cmd.Env = append(os.Environ(), "GOOS=illumos", "GOARCH=amd64", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("GOOS=illumos go build ./cmd/nereid-agent: %v\n%s", err, out)
	}
}

func TestNothingOfThisMachine(t *testing.T) {
	cmd := exec.Command("git", "ls-files", "-z")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	for f := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		b, err := os.ReadFile(filepath.Join(root(t), f))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted in the working tree
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 1<<20 {
			t.Errorf("%s: %d bytes: binaries and third-party source stay out of the tree", f, len(b))
		}
		if s := fmt.Sprintf("/%s/", "work"); bytes.Contains(b, []byte(s)) {
			t.Errorf("%s: contains %s, a path of one machine", f, s)
		}
	}
}

// TestTiersRunTheirTests: the Makefile picks a tier's tests by name, so that a
// test in a tier's file that is named otherwise would never run.
func TestTiersRunTheirTests(t *testing.T) {
	// TestReal runs inside a server, started by integration/setup.
	prefixes := map[string][]string{"netns": {"TestNetNS", "TestBench"}, "vm": {"TestVM", "TestBench", "TestReal"}}
	for tier, may := range prefixes {
		files, err := exec.Command("git", "-C", root(t), "ls-files", "-z", "*_"+tier+"_test.go").Output()
		if err != nil {
			t.Fatalf("git ls-files: %v", err)
		}
		if len(files) == 0 {
			t.Errorf("no test in tier %s", tier)
		}
		for f := range strings.SplitSeq(strings.TrimRight(string(files), "\x00"), "\x00") {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root(t), f), nil, parser.ParseComments|parser.SkipObjectResolution)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(file.Comments) == 0 || !strings.HasPrefix(file.Comments[0].List[0].Text, "//go:build "+tier) {
				t.Errorf("%s: no //go:build %s", f, tier)
			}
			for _, d := range file.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok || !strings.HasPrefix(fn.Name.Name, "Test") || fn.Name.Name == "TestMain" {
					continue
				}
				if !slices.ContainsFunc(may, func(p string) bool { return strings.HasPrefix(fn.Name.Name, p) }) {
					t.Errorf("%s: %s would not run in tier %s: want a name that begins with one of %v", f, fn.Name.Name, tier, may)
				}
			}
		}
	}
}
