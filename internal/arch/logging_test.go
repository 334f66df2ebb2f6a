package arch

import (
	"go/ast"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"
)

// quiet are packages whose output is not the log of a process.
var quiet = []string{"bench", "internal/lab", "internal/demo"}

// TestLogKeysAreDocumented compares the keys of slog calls with the table in
// docs/LOGGING.md, in both directions.
func TestLogKeysAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/LOGGING.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllSubmatch(page, -1) {
		documented[string(m[1])] = true
	}
	all, fset := load(t)
	used := map[string]token.Position{}
	for _, p := range all {
		if within(p.name, quiet) != "" {
			continue
		}
		for _, f := range p.files {
			for key, pos := range logKeys(f) {
				used[key] = fset.Position(pos)
			}
		}
	}
	for key, pos := range used {
		if !documented[key] {
			t.Errorf("%s: log key %q is not in docs/LOGGING.md", pos, key)
		}
	}
	for key := range documented {
		if _, ok := used[key]; !ok {
			t.Errorf("docs/LOGGING.md has key %q, which nothing logs", key)
		}
	}
}

// logMethods are those of *slog.Logger that take a message and pairs, or pairs.
var logMethods = map[string]int{"Debug": 1, "Info": 1, "Warn": 1, "Error": 1, "With": 0}

// logKeys returns the keys of the slog calls in a file. Calls of that form whose
// keys are no literals belong to something else.
func logKeys(f *ast.File) map[string]token.Pos {
	keys := map[string]token.Pos{}
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		first, isLog := logMethods[sel.Sel.Name]
		x, isName := baseName(sel.X)
		if !isLog || !isName || !slices.Contains([]string{"log", "Log", "logger", "Logger"}, x) {
			return true
		}
		for i := first; i < len(call.Args); i += 2 {
			if lit, ok := call.Args[i].(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if key, err := strconv.Unquote(lit.Value); err == nil {
					keys[key] = lit.Pos()
				}
			}
		}
		return true
	})
	return keys
}

// baseName returns the last name of x: "log" of n.log and of log.
func baseName(x ast.Expr) (string, bool) {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name, true
	case *ast.SelectorExpr:
		return x.Sel.Name, true
	}
	return "", false
}
