package manifest

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the expectations in testdata")

// TestScripts runs testdata/*.txt. A script is a list of steps:
//
//	apply                    or: delete Kind namespace/name ...
//	<manifests>
//	----
//	<what the Index said>
//	====
//
// A line "options bylabel" at the top sets options of the Index.
func TestScripts(t *testing.T) {
	names, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(names) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) { runScript(t, name) })
	}
}

func runScript(t *testing.T, name string) {
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	head, body, _ := strings.Cut(string(data), "\nSTEPS\n")
	x := NewIndex(Options{ByLabel: strings.Contains(head, "options bylabel")})
	out := bytes.NewBufferString(head + "\nSTEPS\n")
	for _, step := range strings.SplitAfter(body, "====\n") {
		if strings.TrimSpace(step) == "" {
			continue
		}
		in, want, ok := strings.Cut(strings.TrimSuffix(step, "====\n"), "----\n")
		if !ok {
			t.Fatalf("%s: a step without ----:\n%s", name, step)
		}
		got := runStep(t, x, in)
		if got != want && !*rewrite {
			t.Errorf("%s: after\n%s\ngot:\n%s\nwant:\n%s", name, in, got, want)
		}
		fmt.Fprintf(out, "%s----\n%s====\n", in, got)
	}
	if *rewrite {
		if err := os.WriteFile(name, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func runStep(t *testing.T, x *Index, in string) string {
	t.Helper()
	command, manifests, _ := strings.Cut(strings.TrimLeft(in, "\n"), "\n")
	var b strings.Builder
	var changes []Change
	switch words := strings.Fields(command); words[0] {
	case "apply":
		f := Decode("in.yaml", []byte(manifests))
		for _, e := range f.Errors {
			fmt.Fprintf(&b, "error %s\n", e)
		}
		for _, u := range f.Unknown {
			fmt.Fprintf(&b, "unknown %s %s line %d\n", u.Kind, u.Name, u.Line)
		}
		for _, o := range f.Objects {
			changes = append(changes, Change{o.Key, o})
		}
	case "delete":
		for i := 1; i+1 < len(words); i += 2 {
			ns, name, ok := strings.Cut(words[i+1], "/")
			if !ok {
				ns, name = "", ns
			}
			changes = append(changes, Change{Key: mesh.Key{Kind: words[i], Namespace: ns, Name: name}})
		}
	default:
		t.Fatalf("unknown command %q", command)
	}
	for _, u := range x.Apply(changes...) {
		switch {
		case u.Err != nil:
			fmt.Fprintf(&b, "refused %s\n  %s\n", u.Key, u.Err)
			if u.Value != nil {
				fmt.Fprintf(&b, "  %s\n", render(u.Value))
			}
		case u.Value == nil:
			fmt.Fprintf(&b, "gone %s\n", u.Key)
		default:
			fmt.Fprintf(&b, "%s\n", render(u.Value))
		}
	}
	return b.String()
}

// render prints a value without what is zero in it.
func render(v any) string {
	return strings.TrimPrefix(renderValue(reflect.ValueOf(v)), "&")
}

func renderValue(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Time:
		return x.Format(time.RFC3339)
	case netip.Addr, netip.Prefix, mesh.Key, mesh.Hostname, config.TrafficType:
		return fmt.Sprint(x)
	case fmt.Stringer:
		if v.Kind() != reflect.Pointer && v.Kind() != reflect.Struct {
			return x.String()
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		return renderValue(v.Elem())
	case reflect.Struct:
		var parts []string
		for i := range v.NumField() {
			if f := v.Field(i); v.Type().Field(i).IsExported() && !f.IsZero() {
				parts = append(parts, v.Type().Field(i).Name+":"+renderValue(f))
			}
		}
		name := ""
		if strings.HasPrefix(v.Type().PkgPath(), "github.com/waystone") {
			switch v.Type().Name() {
			case "Workload", "Service", "Gateway", "Policy", "Route":
				name = v.Type().Name()
			}
		}
		return name + "{" + strings.Join(parts, " ") + "}"
	case reflect.Slice:
		var parts []string
		for i := range v.Len() {
			parts = append(parts, renderValue(v.Index(i)))
		}
		return "[" + strings.Join(parts, " ") + "]"
	case reflect.Map:
		var parts []string
		for _, k := range v.MapKeys() {
			parts = append(parts, renderValue(k)+":"+renderValue(v.MapIndex(k)))
		}
		slices.Sort(parts)
		return "map[" + strings.Join(parts, " ") + "]"
	case reflect.String:
		return fmt.Sprintf("%q", v.String())
	}
	return fmt.Sprint(v.Interface())
}
