package manifest

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/script"
)

// The scripts in testdata say what the Index makes of manifests. Their commands
// are
//
//	options  bylabel, revision=NAME: begins again with an Index of these options
//	apply    the input is manifests; the result, what the Index said
//	delete   Kind namespace/name …: the result likewise
//	mesh     the input is a file of MeshConfig; the result likewise
//	ignored  the result is what of MeshConfig is not read
func TestScripts(t *testing.T) {
	script.Run(t, "testdata/*.txt", func(*testing.T) func(*script.Block) string {
		x := NewIndex(Options{})
		return func(b *script.Block) string {
			switch b.Command {
			case "options":
				o := Options{ByLabel: slices.Contains(b.Args, "bylabel")}
				for _, arg := range b.Args {
					if name, value, _ := strings.Cut(arg, "="); name == "revision" {
						o.Revision = value
					}
				}
				x = NewIndex(o)
				return ""
			case "apply":
				changes, out := applied(b.Input)
				return out + said(x.Apply(changes...))
			case "delete":
				return said(x.Apply(deleted(b)...))
			case "mesh":
				return said(x.Set(DecodeMesh("mesh.yaml", []byte(b.Input)).Objects[0]))
			case "ignored":
				return strings.Join(x.Ignored(), "\n")
			}
			b.Fatalf("unknown command %q", b.Command)
			return ""
		}
	})
}

// applied returns what manifests change, and prints what of them is wrong.
func applied(manifests string) (changes []Change, out string) {
	f := Decode("in.yaml", []byte(manifests))
	for _, e := range f.Errors {
		out += fmt.Sprintf("error %s\n", e)
	}
	for _, u := range f.Unknown {
		out += fmt.Sprintf("unknown %s %s line %d\n", u.Kind, u.Name, u.Line)
	}
	for _, o := range f.Objects {
		changes = append(changes, Change{o.Key, o})
	}
	return changes, out
}

func deleted(b *script.Block) (changes []Change) {
	if len(b.Args)%2 != 0 {
		b.Fatalf("delete: got %q, want pairs of a kind and a name", b.Args)
	}
	for pair := range slices.Chunk(b.Args, 2) {
		ns, name, ok := strings.Cut(pair[1], "/")
		if !ok {
			ns, name = "", ns
		}
		changes = append(changes, Change{Key: mesh.Key{Kind: pair[0], Namespace: ns, Name: name}})
	}
	return changes
}

// said prints updates.
func said(updates []config.Update) string {
	var out strings.Builder
	for _, u := range updates {
		switch {
		case u.Err != nil:
			fmt.Fprintf(&out, "refused %s\n  %s\n", u.Key, u.Err)
			if u.Value != nil {
				fmt.Fprintf(&out, "  %s\n", render(u.Value))
			}
		case u.Value == nil:
			fmt.Fprintf(&out, "gone %s\n", u.Key)
		default:
			fmt.Fprintf(&out, "%s\n", render(u.Value))
		}
	}
	return out.String()
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
			case "Workload", "Service", "Gateway", "Policy", "Route", "RequestAuthentication", "Mesh":
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
