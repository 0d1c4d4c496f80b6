package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

// testNames lists the project's test functions as package.TestName.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	fn := regexp.MustCompile(`(?m)^func (Test\w+|Fuzz\w+)\(`)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		src, err := os.ReadFile(path)
		for _, m := range fn.FindAllStringSubmatch(string(src), -1) {
			names[filepath.Base(filepath.Dir(path))+"."+m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Every rule of docs/guarantees.md names tests, and every test it names
// exists.
func TestGuaranteesNameTestsThatExist(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(root, "docs/guarantees.md"))
	if err != nil {
		t.Fatal(err)
	}
	exist := testNames(t)
	row := regexp.MustCompile("(?m)^\\| (P\\d+) .*\\| (`.*`) \\|$")
	proven := map[string]int{}
	for _, m := range row.FindAllStringSubmatch(string(doc), -1) {
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(m[2], -1) {
			proven[m[1]]++
			if !exist[name[1]] {
				t.Errorf("%s names %s, which is no test", m[1], name[1])
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\*\*(P\d+) `).FindAllStringSubmatch(string(doc), -1) {
		if proven[m[1]] == 0 {
			t.Errorf("%s names no test", m[1])
		}
	}
	if len(proven) < 10 {
		t.Errorf("only %d rules have tests", len(proven))
	}
}
