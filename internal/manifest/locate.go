package manifest

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A tree is YAML that was parsed; it has no content if it is none.
type tree struct{ yaml.Node }

func parse(text []byte) *tree {
	t := new(tree)
	if yaml.Unmarshal(text, &t.Node) != nil {
		t.Content = nil
	}
	return t
}

// at returns the line of a field of the document's object: that of the deepest
// part of its path that is there. Unless there is a tree, it parses the text again,
// which is no loss: it runs once for an object, and again for its error.
func (d document) at(field string) int {
	switch {
	case d.flat:
		return d.line
	case d.path == "" && field == "":
		return d.line + leadingLines(d.text)
	}
	_, line := d.find(field)
	return line
}

// find returns the deepest part of a field's path that is there, nil of a text
// that is not YAML, and its line in the file.
func (d document) find(field string) (*yaml.Node, int) {
	t := d.tree
	if t == nil {
		t = parse(d.text)
	}
	if len(t.Content) == 0 {
		return nil, d.line
	}
	n := t.Content[0]
	line := n.Line
	for _, step := range steps(join(d.path, field)) {
		value, at := descend(n, step)
		if value == nil {
			break
		}
		n, line = value, at
	}
	return n, d.line + line - 1
}

// inner returns the value of a field, which is text, as a document. Only of a
// literal block are the lines lines of the file.
func (d document) inner(field, text string) document {
	n, line := d.find(field)
	in := document{file: d.file, text: []byte(text), line: line, flat: true}
	if n != nil && n.Style == yaml.LiteralStyle {
		in.line, in.flat = d.line+n.Line, false // it begins after the line with its "|"
	}
	return in
}

// descend returns the value of a field or the element of a sequence, and the
// line where its name stands.
func descend(n *yaml.Node, step string) (*yaml.Node, int) {
	for n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == step {
				return n.Content[i+1], n.Content[i].Line
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i], n.Content[i].Line
		}
	}
	return nil, 0
}

// steps cuts "spec.rules[0].to" into spec, rules, 0, to. A key in brackets may
// contain dots.
func steps(path string) []string {
	var out []string
	for path != "" {
		switch i := strings.IndexAny(path, ".["); {
		case path[0] == '[':
			end := strings.IndexByte(path, ']')
			if end < 0 {
				return out
			}
			out, path = append(out, strings.Trim(path[1:end], `"`)), path[end+1:]
		case path[0] == '.':
			path = path[1:]
		case i < 0:
			return append(out, path)
		default:
			out, path = append(out, path[:i]), path[i:]
		}
	}
	return out
}

// leadingLines counts the lines before a document's first content, comments and
// blank lines included.
func leadingLines(text []byte) int {
	n := 0
	for line := range strings.Lines(string(text)) {
		if t := strings.TrimSpace(line); t != "" && t[0] != '#' {
			return n
		}
		n++
	}
	return 0
}
