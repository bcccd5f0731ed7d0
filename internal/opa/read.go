package opa

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/loader"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/waystone-mesh/waystone/authz"
)

// A source is Rego that has been read, and the data beside it.
type source struct {
	modules  map[string]*ast.Module
	data     map[string]any
	revision string
}

// read reads what a provider names.
func read(o *authz.OPAPolicy) (*source, error) {
	s := &source{modules: map[string]*ast.Module{}}
	if o.Path != "" {
		if err := s.addPath(o.Path); err != nil {
			return nil, err
		}
	}
	if err := s.addAll(o.Modules); err != nil {
		return nil, err
	}
	if len(s.modules) == 0 {
		return nil, errors.New("there is no Rego in it")
	}
	return s, nil
}

// addPath reads a file, a bundle, or what is in a directory.
func (s *source) addPath(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	_, manifest := os.Stat(filepath.Join(name, bundle.ManifestExt))
	switch {
	case strings.HasSuffix(name, ".tar.gz"), info.IsDir() && manifest == nil:
		return s.addBundle(name)
	case info.IsDir():
		return s.addDirectory(name)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return s.add(name, string(text))
}

// addBundle reads a bundle, in a file or as a directory. Its manifest may say
// which version of Rego it is in; else that is found out.
func (s *source) addBundle(name string) error {
	read := func(v ast.RegoVersion) (*bundle.Bundle, error) {
		return loader.NewFileLoader().WithCapabilities(capabilities()).WithRegoVersion(v).WithFilter(hidden).WithFollowSymlinks(true).AsBundle(name)
	}
	b, err := read(ast.RegoV1)
	if err != nil {
		old, failed := read(ast.RegoV0)
		if failed != nil {
			return located(err)
		}
		b = old
	}
	for _, m := range b.Modules {
		s.modules[m.Path] = m.Parsed
	}
	s.data, s.revision = b.Data, b.Manifest.Revision
	return nil
}

// hidden has the loader pass over what is not the author's: a ConfigMap that is
// mounted has all its files twice, behind names that begin with two dots.
func hidden(_ string, info fs.FileInfo, depth int) bool {
	return depth > 0 && strings.HasPrefix(info.Name(), "..")
}

// addDirectory reads every file of Rego below a directory, and data: what is in
// JSON or YAML is found in data under the names of the directories it is in.
func (s *source) addDirectory(root string) error {
	return walk(root, func(name string) error {
		ext := filepath.Ext(name)
		if ext != ".rego" && !isData(ext) {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if ext == ".rego" {
			return s.add(name, string(text))
		}
		at, err := filepath.Rel(root, filepath.Dir(name))
		if err != nil {
			return err
		}
		return s.addData(name, filepath.ToSlash(at), text)
	})
}

// walk calls f for every file below root, or for root if it is one, whose name
// does not begin with a dot. Links to files are followed, to directories not,
// except that root may be one.
func walk(root string, f func(name string) error) error {
	if info, err := os.Stat(root); err == nil && info.IsDir() {
		root += string(filepath.Separator)
	}
	return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name != root && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return nil
		}
		if info, err := os.Stat(name); err != nil || !info.Mode().IsRegular() {
			return err
		}
		return f(name)
	})
}

func isData(ext string) bool { return ext == ".json" || ext == ".yaml" || ext == ".yml" }

// addAll adds files by name: what a ConfigMap holds.
func (s *source) addAll(files map[string]string) error {
	var errs []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		add := func() error { return s.add(name, files[name]) }
		if isData(path.Ext(name)) {
			add = func() error { return s.addData(name, ".", []byte(files[name])) }
		}
		if err := add(); err != nil {
			errs = append(errs, err.Error())
		}
	}
	if len(errs) > 0 {
		return errors.New(strings.Join(errs, "; "))
	}
	return nil
}

// add parses Rego. What is not version 1 of the language but is version 0, in
// which most policies for Envoy are published, is read as that.
func (s *source) add(name, text string) error {
	parse := func(v ast.RegoVersion) (*ast.Module, error) {
		return ast.ParseModuleWithOpts(name, text, ast.ParserOptions{RegoVersion: v, Capabilities: capabilities()})
	}
	m, err := parse(ast.RegoV1)
	if err != nil {
		old, failed := parse(ast.RegoV0)
		if failed != nil {
			return located(err)
		}
		m = old
	}
	s.modules[name] = m
	return nil
}

// addData adds a document at a path of data. Documents may not disagree.
func (s *source) addData(name, at string, text []byte) error {
	var document any
	if err := util.Unmarshal(text, &document); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	values, ok := document.(map[string]any)
	if !ok {
		return fmt.Errorf("%s: data is an object, and this is %s", name, kindOf(document))
	}
	if at != "." {
		for _, part := range slices.Backward(strings.Split(at, "/")) {
			values = map[string]any{part: values}
		}
	}
	if s.data == nil {
		s.data = map[string]any{}
	}
	if where := merge(s.data, values); where != "" {
		return fmt.Errorf("%s: data.%s is in another file, too", name, where)
	}
	return nil
}

// merge adds from to into, and returns the path of what is in both.
func merge(into, from map[string]any) (conflict string) {
	for _, k := range slices.Sorted(maps.Keys(from)) {
		old, there := into[k]
		if !there {
			into[k] = from[k]
			continue
		}
		a, ok := old.(map[string]any)
		b, both := from[k].(map[string]any)
		if !ok || !both {
			return k
		}
		if c := merge(a, b); c != "" {
			return k + "." + c
		}
	}
	return ""
}

// kindOf names a JSON value.
func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case string:
		return "a string"
	case json.Number, float64:
		return "a number"
	case []any:
		return "an array"
	}
	return "an object"
}
