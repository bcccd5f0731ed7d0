package script

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// A recorder keeps what a test would have failed with.
type recorder struct {
	testing.TB
	said []string
}

func (r *recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) {
	r.said = append(r.said, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatal(args ...any) {
	r.said = append(r.said, fmt.Sprint(args...))
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) { r.Fatal(fmt.Sprintf(format, args...)) }

// record returns what f fails with.
func record(t *testing.T, f func(testing.TB)) string {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return strings.Join(r.said, "\n")
}

// echo gives back the input; "is", its arguments; "wrong" and "odd" are faults.
func echo(b *Block) string {
	switch b.Command {
	case "is":
		return strings.Join(b.Args, " ")
	case "odd":
		return "====\n"
	case "wrong":
		b.Fatalf("%d lines of input", len(b.Lines()))
	}
	return b.Input
}

const good = `# What this
# is about.

is  a b
----
a b
====
is
----
====

# Everything else may stand within.
echo

# not a comment
 indented
----

# not a comment
 indented
====
# The end.
`

func put(t *testing.T, text string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "a.txt")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestRun(t *testing.T) {
	file := put(t, good)
	var names, lines []string
	Run(t, filepath.Join(filepath.Dir(file), "*.txt"), func(t *testing.T) func(*Block) string {
		names = append(names, t.Name())
		return func(b *Block) string {
			lines = append(lines, fmt.Sprintf("%d %q", b.Line, b.Lines()))
			return echo(b)
		}
	})
	if len(names) != 1 || names[0] != "TestRun/a" {
		t.Errorf("got the tests %q, want TestRun/a", names)
	}
	if got, want := strings.Join(lines, "\n"), "4 []\n8 []\n13 [\"\" \"# not a comment\" \" indented\"]"; got != want {
		t.Errorf("got the blocks\n%s\nwant\n%s", got, want)
	}
}

func TestRunNamesTheBlockThatFails(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"another result", "# c\n\nis a\n----\nb\n====\n", ":3: is a\ngot\na\nwant\nb\n"},
		{"a blank line less", "# c\necho\n\n----\n====\n", ":2: echo\n\ngot\n\nwant\n"},
		{"each", "# c\nis a\n----\n====\nis b\n----\n====\n", ":5: is b\ngot\nb\nwant\n"},
		{"faulty block", "# c\nis\n----\n====\nwrong\n1\n2\n----\n====\nis a\n----\n====\n", ":5: 2 lines of input"},
		{"result that ends the block", "# c\nodd\n----\n====\n", ":2: the result has a line ====, which ends a block"},
		{"no comment", "is\n----\n====\n", ":1: a script begins with a comment that states what it is about"},
		{"nothing", "", ":1: a script begins with a comment that states what it is about"},
		{"no block", "# c\n\n# d\n", ":3: a script without a block"},
		{"no result", "# c\nis\n\n====\n", ":2: the block ends without a line ----"},
		{"no end", "# c\nis\n----\na\n", ":2: the block does not end: it needs a line ===="},
		{"no command", "# c\n----\n====\n", ":2: a line ---- where a command is expected"},
		{"ended twice", "# c\nis\n----\n====\n====\n", ":5: a line ==== where a command is expected"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := put(t, tt.text)
			got := record(t, func(r testing.TB) { run(r, file, false, echo) })
			if !strings.HasSuffix(got, file+tt.want) {
				t.Errorf("got %q, want %q", got, file+tt.want)
			}
			if got := read(t, file); got != tt.text {
				t.Errorf("the script has become\n%s", got)
			}
		})
	}
}

func TestRunRewrites(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"as it was", good, good},
		{"results", "# c\n\nis a\n----\nb\n\n====\n\n# d\necho\n\n1\n----\n====\n\n\n", "# c\n\nis a\n----\na\n====\n\n# d\necho\n\n1\n----\n\n1\n====\n\n\n"},
		{"the last end of a line", "# c\nis a\n----\n====", "# c\nis a\n----\na\n====\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := put(t, tt.text)
			run(t, file, true, echo)
			if got := read(t, file); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			run(t, file, false, echo)
		})
	}
}

func TestRunRewritesNothingOfAScriptThatStops(t *testing.T) {
	const text = "# c\nis a\n----\n====\nwrong\n----\n====\n"
	file := put(t, text)
	if got, want := record(t, func(r testing.TB) { run(r, file, true, echo) }), file+":5: 0 lines of input"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := read(t, file); got != text {
		t.Errorf("the script has become\n%s", got)
	}
}

func TestGolden(t *testing.T) {
	file := put(t, "a\n")
	if got := record(t, func(r testing.TB) { golden(r, file, "a\n", false) }); got != "" {
		t.Errorf("got %q for the same text", got)
	}
	if got, want := record(t, func(r testing.TB) { golden(r, file, "b\n", false) }), file+": got\nb\n\nwant\na\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := record(t, func(r testing.TB) { golden(r, file+"x", "b\n", false) }); !strings.Contains(got, file+"x") {
		t.Errorf("got %q for a file that is not there", got)
	}
	for _, name := range []string{file, file + "x"} {
		golden(t, name, "b\n", true)
		if got := read(t, name); got != "b\n" {
			t.Errorf("%s: got %q after it was rewritten, want b", name, got)
		}
	}
}
