package crashpoint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"testing"
)

// Names has every constant, once, in the order in which they are declared.
func TestNamesAreAll(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "crashpoint.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var declared []Name
	ast.Inspect(f, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Error(err)
			}
			declared = append(declared, Name(value))
		}
		return true
	})
	names := Names()
	if len(names) != len(declared) {
		t.Fatalf("%d names, %d are declared", len(names), len(declared))
	}
	form := regexp.MustCompile(`^[a-z]+(-[a-z]+)+$`)
	seen := map[Name]bool{}
	for i, name := range names {
		if name != declared[i] || seen[name] || !form.MatchString(string(name)) {
			t.Errorf("name %d is %q, declared is %q", i, name, declared[i])
		}
		seen[name] = true
	}
}
