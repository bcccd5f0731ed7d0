// Package script holds tests to what files in testdata say. It is for tests
// alone.
//
// A script says what happens when commands are run one after the other, each on
// its input:
//
//	# A script begins with a comment that states what it is about.
//
//	command and its arguments
//	lines of input, as many as there are
//	----
//	lines of the result
//	====
//
// Everything up to ---- is the command and its input, and everything up to ====
// the result, blank lines and lines that begin with # included. Both lines are
// always there, which costs one more than to end blocks with a blank line, but
// a result may then have one. Between blocks there are blank lines and comments.
//
// A golden file is a result alone. With -rewrite, results are written back and
// not compared: the difference is for the author, in version control.
package script

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write results to testdata instead of comparing them with it")

// A Block is a command of a script.
type Block struct {
	File    string
	Line    int // of the command
	Command string
	Args    []string
	Input   string // whole lines; "" if there are none

	t            testing.TB
	before, text string // comments and blank lines; the block, up to ----
	want         string
}

// Lines returns the lines of the input, without their ends.
func (b *Block) Lines() []string {
	if b.Input == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(b.Input, "\n"), "\n")
}

// Want returns the result that the script has, for commands that wait for theirs to come
// about.
func (b *Block) Want() string { return b.want }

// Fatalf ends the test of b's script: something is wrong in b itself.
func (b *Block) Fatalf(format string, args ...any) {
	b.t.Helper()
	b.t.Fatalf("%s:%d: %s", b.File, b.Line, fmt.Sprintf(format, args...))
}

// Run runs every script that pattern names, as a subtest. For each it calls
// begin, and what that returns for each block, in order. The result of a block
// is lines; the end of the last of them may be missing.
func Run(t *testing.T, pattern string, begin func(t *testing.T) func(*Block) string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no scripts: %v", pattern, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)), func(t *testing.T) {
			run(t, file, *rewrite, begin(t))
		})
	}
}

func run(t testing.TB, file string, rewrite bool, do func(*Block) string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	blocks, after, err := parse(file, string(text))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, b := range blocks {
		b.t = t
		got := do(b)
		if got != "" && !strings.HasSuffix(got, "\n") {
			got += "\n"
		}
		if strings.Contains("\n"+got, "\n====\n") {
			b.Fatalf("the result has a line ====, which ends a block")
		}
		if got != b.want && !rewrite {
			t.Errorf("%s:%d: %sgot\n%swant\n%s", file, b.Line, b.text, got, b.want)
		}
		out.WriteString(b.before + b.text + "----\n" + got + "====\n")
	}
	out.WriteString(after)
	if rewrite {
		write(t, file, string(text), out.String())
	}
}

// parse returns the blocks of a script, and the lines after the last of them.
func parse(file, text string) (blocks []*Block, after string, err error) {
	if !strings.HasPrefix(text, "# ") {
		return nil, "", fmt.Errorf("%s:1: a script begins with a comment that states what it is about", file)
	}
	var b *Block // nil between blocks
	result := false
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSuffix(line, "\n") + "\n"
		words := strings.Fields(line)
		switch {
		case b == nil && (len(words) == 0 || line[0] == '#'):
			after += line
		case b == nil && (line == "----\n" || line == "====\n"):
			return nil, "", fmt.Errorf("%s:%d: a line %s where a command is expected", file, n, words[0])
		case b == nil:
			b = &Block{File: file, Line: n, Command: words[0], Args: words[1:], before: after, text: line}
			after, result = "", false
		case result && line == "====\n":
			blocks = append(blocks, b)
			b = nil
		case result:
			b.want += line
		case line == "----\n":
			result = true
		case line == "====\n":
			return nil, "", fmt.Errorf("%s:%d: the block ends without a line ----", file, b.Line)
		default:
			b.Input += line
			b.text += line
		}
	}
	switch {
	case b != nil:
		return nil, "", fmt.Errorf("%s:%d: the block does not end: it needs a line ====", file, b.Line)
	case len(blocks) == 0:
		return nil, "", fmt.Errorf("%s:%d: a script without a block", file, n)
	}
	return blocks, after, nil
}

// Golden compares got with the whole of a file.
func Golden(t testing.TB, file, got string) {
	t.Helper()
	golden(t, file, got, *rewrite)
}

func golden(t testing.TB, file, got string, rewrite bool) {
	t.Helper()
	want, err := os.ReadFile(file)
	switch {
	case rewrite:
		write(t, file, string(want), got) // there may be no such file yet
	case err != nil:
		t.Fatal(err)
	case got != string(want):
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

// write writes a file unless it is as it should be: an unchanged one keeps its
// time, and so what go test has cached.
func write(t testing.TB, file, old, text string) {
	t.Helper()
	if text == old {
		return
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
