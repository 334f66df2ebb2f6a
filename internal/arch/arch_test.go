package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "icvpn"

// siblings are the packages that only a conductor joins (rule A).
var siblings = []string{"esp", "keyex", "admission", "abe", "overlay", "tun", "internal/underlay"}

// shared is what siblings may use of this module.
var shared = []string{"internal/id", "internal/wire"}

// conductors are imported from above only, by the packages in above (rule B).
var (
	conductors = []string{"cmd", "bench", "internal/node", "internal/superpeer", "internal/manual", "internal/process", "internal/demo"}
	above      = []string{"cmd", "bench", "internal/process", "internal/demo"}
)

// cores are pure (rule C); of a core with files named, those only.
var cores = map[string][]string{
	"esp": nil, "keyex": nil, "admission": nil, "abe": nil,
	"internal/id": nil, "internal/wire": nil, "internal/seal": nil, "internal/filter": nil,
	"internal/service": nil, "internal/provision": nil, "internal/discovery": nil, "internal/promote": nil, "internal/keypool": nil, "internal/relay": nil,
	"internal/ippkt": nil, "internal/datapath/plpmtud": nil, "tun/internal/offload": nil,
	"internal/directory": {"bulk.go", "format.go", "helper.go", "reader.go", "table.go", "writer.go"},
	"internal/sim":       {"config.go", "node.go", "result.go", "scenario.go", "world.go"},
	"overlay": {
		"account.go", "bencode.go", "deposit.go", "drop.go", "fetch.go", "get.go", "item.go", "limit.go", "machine.go", "msg.go",
		"object.go", "outbox.go", "publish.go", "put.go", "query.go", "respond.go", "share.go", "stats.go", "store.go", "table.go", "timers.go",
		"token.go", "upkeep.go", "walk.go",
	},
}

// forbiddenImports are doors to the world. Package net is one of them, except
// for what pureNet allows; net/netip is a value.
var forbiddenImports = []string{"net", "os", "os/exec", "os/signal", "syscall", "unsafe", "net/http", "golang.org/x/sys/unix", "golang.org/x/net/icmp"}

// pureNet are functions of package net that compute and touch nothing, and the
// cores that use them.
var pureNet = map[string][]string{"internal/service": {"SplitHostPort", "JoinHostPort"}}

// clocks are the functions of package time that read a clock or wait for one.
var clocks = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTicker", "NewTimer"}

// pkg is what the rules need of a package.
type pkg struct {
	ImportPath     string
	Dir            string
	GoFiles        []string
	IgnoredGoFiles []string // of other systems: the rules hold there too
	CgoFiles       []string

	name  string // within the module
	files map[string]*ast.File
}

// load lists the module with the go command and parses every file that is no
// test.
func load(t *testing.T) (all []*pkg, fset *token.FileSet) {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,IgnoredGoFiles,CgoFiles", module+"/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	fset = token.NewFileSet()
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		p := &pkg{files: map[string]*ast.File{}}
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			return all, fset
		} else if err != nil {
			t.Fatal(err)
		}
		p.name = strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		for _, name := range slices.Concat(p.GoFiles, p.IgnoredGoFiles, p.CgoFiles) {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			p.files[name] = f
		}
		all = append(all, p)
	}
}

// imports returns what the named files import, all files without names.
func (p *pkg) imports(names ...string) (paths []string) {
	for name, f := range p.files {
		if len(names) > 0 && !slices.Contains(names, name) {
			continue
		}
		for _, spec := range f.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err == nil {
				paths = append(paths, path)
			}
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// within returns the root of roots that name is, or lies below; "" for none.
func within(name string, roots []string) string {
	for _, r := range roots {
		if name == r || strings.HasPrefix(name, r+"/") {
			return r
		}
	}
	return ""
}

// ours returns the name of an imported package within the module.
func ours(path string) (name string, ok bool) { return strings.CutPrefix(path, module+"/") }

func TestSiblingsNeverImportSiblings(t *testing.T) {
	all, _ := load(t)
	for _, v := range ruleA(all) {
		t.Error(v)
	}
}

func ruleA(all []*pkg) (violations []string) {
	for _, p := range all {
		self := within(p.name, siblings)
		if self == "" {
			continue
		}
		for _, path := range p.imports() {
			if name, ok := ours(path); ok && within(name, siblings) != self && !slices.Contains(shared, name) {
				violations = append(violations, fmt.Sprintf("%s imports %s: a sibling may use internal/id and internal/wire only; pass it in from a conductor", p.name, name))
			}
		}
	}
	return violations
}

func TestConductorsAreImportedFromAboveOnly(t *testing.T) {
	all, _ := load(t)
	for _, v := range ruleB(all) {
		t.Error(v)
	}
}

func ruleB(all []*pkg) (violations []string) {
	for _, p := range all {
		for _, path := range p.imports() {
			name, ok := ours(path)
			if !ok {
				continue
			}
			c := within(name, conductors)
			if c != "" && c != within(p.name, conductors) && within(p.name, above) == "" {
				violations = append(violations, fmt.Sprintf("%s imports %s: only %s may", p.name, name, strings.Join(above, ", ")))
			}
		}
	}
	return violations
}

func TestCoresArePure(t *testing.T) {
	all, fset := load(t)
	seen := 0
	for _, p := range all {
		files, isCore := cores[p.name]
		if !isCore {
			continue
		}
		seen++
		for _, name := range files {
			if p.files[name] == nil {
				t.Errorf("%s has no file %s: correct the list of cores", p.name, name)
			}
		}
		for _, v := range ruleC(p, files, fset) {
			t.Error(v)
		}
	}
	if seen != len(cores) {
		t.Errorf("%d of %d cores found: correct the list", seen, len(cores))
	}
}

func ruleC(p *pkg, files []string, fset *token.FileSet) (violations []string) {
	for _, path := range p.imports(files...) {
		if slices.Contains(forbiddenImports, path) && !(path == "net" && pureNet[p.name] != nil) {
			violations = append(violations, fmt.Sprintf("%s imports %s: a core touches nothing outside itself", p.name, path))
		}
	}
	for name, f := range p.files {
		if len(files) > 0 && !slices.Contains(files, name) {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if why := impure(p, f, n); why != "" {
				violations = append(violations, fmt.Sprintf("%s: %s", fset.Position(n.Pos()), why))
			}
			return true
		})
	}
	slices.Sort(violations)
	return violations
}

// impure says what is wrong with a node of a core's file, "" if nothing is.
func impure(p *pkg, f *ast.File, n ast.Node) string {
	switch n := n.(type) {
	case *ast.GoStmt:
		return "a core starts no goroutine"
	case *ast.SelectorExpr:
		x, ok := n.X.(*ast.Ident)
		if !ok {
			return ""
		}
		switch path := imported(f, x.Name); {
		case path == "time" && slices.Contains(clocks, n.Sel.Name):
			return "a core reads no clock: time." + n.Sel.Name + " belongs to the caller"
		case path == "net" && !slices.Contains(pureNet[p.name], n.Sel.Name):
			return "a core opens no socket: net." + n.Sel.Name
		}
	}
	return ""
}

// imported returns the path that a file knows under a name, "" if none.
func imported(f *ast.File, name string) string {
	for _, spec := range f.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue
		}
		local := path[strings.LastIndexByte(path, '/')+1:]
		if spec.Name != nil {
			local = spec.Name.Name
		}
		if local == name {
			return path
		}
	}
	return ""
}

// TestRulesFindViolations keeps the rules themselves honest: each must object to
// a package made to break it.
func TestRulesFindViolations(t *testing.T) {
	parse := func(name, src string) (*pkg, *token.FileSet) {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, "bad.go", "package bad\n"+src, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		return &pkg{name: name, files: map[string]*ast.File{"bad.go": f}}, fset
	}
	bad := map[string]func(*pkg, *token.FileSet) []string{
		`import _ "icvpn/esp"`:           func(p *pkg, _ *token.FileSet) []string { return ruleA([]*pkg{p}) },
		`import _ "icvpn/internal/seal"`: func(p *pkg, _ *token.FileSet) []string { return ruleA([]*pkg{p}) },
		`import _ "icvpn/internal/node"`: func(p *pkg, _ *token.FileSet) []string { return ruleB([]*pkg{p}) },
		`import _ "icvpn/cmd/icvpn"`:     func(p *pkg, _ *token.FileSet) []string { return ruleB([]*pkg{p}) },
		`import _ "os"`:                  func(p *pkg, f *token.FileSet) []string { return ruleC(p, nil, f) },
		`func f() { go f() }`:            func(p *pkg, f *token.FileSet) []string { return ruleC(p, nil, f) },
		`import "time"; var _ = time.Now`: func(p *pkg, f *token.FileSet) []string {
			return ruleC(p, nil, f)
		},
		`import clock "time"; func f() { clock.Sleep(1) }`: func(p *pkg, f *token.FileSet) []string { return ruleC(p, nil, f) },
		`import "net"; var _ = net.Dial`:                   func(p *pkg, f *token.FileSet) []string { return ruleC(p, nil, f) },
	}
	for src, rule := range bad {
		p, fset := parse("keyex", src)
		if len(rule(p, fset)) == 0 {
			t.Errorf("no rule objects to keyex with: %s", src)
		}
	}
	good, fset := parse("keyex", `import ("time"; "icvpn/internal/wire"; "net/netip"); var _ time.Time; var _ netip.Addr; var _ = wire.Label`)
	if v := slices.Concat(ruleA([]*pkg{good}), ruleB([]*pkg{good}), ruleC(good, nil, fset)); len(v) != 0 {
		t.Errorf("a clean core is objected to: %q", v)
	}
}
