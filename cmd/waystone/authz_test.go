package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/script"
)

// The scripts in testdata/authz say what the commands print, as they are typed in
// the module's root. Their commands are
//
//	waystone  its arguments; the result is what is written to standard output and
//	          standard error, and the exit status unless it is 0
//	file      a name: the input is what is in it, in a directory of the script's
//	          own, which $DIR stands for
//	stdin     the input of the next command
func TestAuthzScripts(t *testing.T) {
	pattern, err := filepath.Abs("testdata/authz/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("../..")
	script.Run(t, pattern, func(t *testing.T) func(*script.Block) string {
		s := &shell{t: t, dir: t.TempDir()}
		return s.run
	})
}

// A shell runs the commands of a script.
type shell struct {
	t     *testing.T
	dir   string
	stdin string
}

func (s *shell) run(b *script.Block) string {
	switch b.Command {
	case "file":
		name := filepath.Join(s.dir, b.Args[0])
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(b.Input), 0o644)); err != nil {
			b.Fatalf("%v", err)
		}
		return ""
	case "stdin":
		s.stdin = b.Input
		return ""
	case "waystone":
		return s.waystone(append(b.Args, strings.Fields(b.Input)...))
	}
	b.Fatalf("unknown command %q", b.Command)
	return ""
}

func (s *shell) waystone(args []string) string {
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "$DIR", s.dir)
	}
	c := root()
	var out bytes.Buffer
	c.SetArgs(args)
	c.SetIn(strings.NewReader(s.stdin))
	c.SetOut(&out)
	c.SetErr(&out)
	s.stdin = ""
	err := c.ExecuteContext(s.t.Context())
	text := strings.ReplaceAll(out.String(), s.dir, "$DIR")
	var answer status
	switch {
	case errors.As(err, &answer):
		text += fmt.Sprintf("exit status %d\n", answer.ExitStatus())
	case err != nil:
		text += "exit status 1: " + err.Error() + "\n"
	}
	return text
}

func TestHelpOfAuthz(t *testing.T) {
	out, err := run(t, "authz", "--help")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"explain", "test", "replay", "lint", "rego", "guard"} {
		if !strings.Contains(out, "\n  "+name+" ") {
			t.Errorf("no %s in\n%s", name, out)
		}
		if help, err := run(t, "authz", name, "--help"); err != nil || !strings.Contains(help, "Examples:") {
			t.Errorf("%s: %v\n%s", name, err, help)
		}
	}
}
