package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// An Object is one Kubernetes object, read and validated.
type Object struct {
	Key  mesh.Key // kind, namespace ("" for a cluster's own) and name
	File string
	Line int    // of its first line in File; 0 when it is from elsewhere
	Err  *Error // why it is refused; nil for a good one

	// value is a pointer to one of the official types, or what was made of one,
	// or nil. A refused policy
	// has what could be read of it, so that its target can fail closed.
	value any
}

// An Error says which object is refused, where it stands, and why.
type Error struct {
	File   string
	Line   int      // of the field at fault when it is known, or else of the object; 0 unknown
	Object mesh.Key // zero for a document that cannot be told
	Field  string   // "spec.rules[0].to[0].operation.ports[1]", or ""
	Reason string
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d", e.Line)
		}
		b.WriteString(": ")
	}
	if e.Object != (mesh.Key{}) {
		b.WriteString(nameOf(e.Object))
		b.WriteString(": ")
	}
	if e.Field != "" {
		b.WriteString(e.Field)
		b.WriteString(": ")
	}
	b.WriteString(e.Reason)
	return b.String()
}

// nameOf renders a key as kubectl would: kind namespace/name.
func nameOf(k mesh.Key) string {
	if k.Name == "" { // there is one
		return k.Kind
	}
	if k.Namespace == "" {
		return k.Kind + " " + k.Name
	}
	return k.Kind + " " + k.Namespace + "/" + k.Name
}

// A File is what Decode found in one file.
type File struct {
	Objects []*Object // in order, refused ones included
	Errors  []*Error  // documents of which not even kind and name can be told
	Unknown []Unknown // objects of kinds that nothing here reads
}

// An Unknown is an object of a kind that nothing here reads.
type Unknown struct {
	Kind string // "apps/v1 Deployment"
	Name string
	File string
	Line int
}

// Decode reads every document of a file, YAML or JSON. It never fails as a
// whole: each bad document is reported by itself and the others are read.
func Decode(name string, data []byte) *File {
	f := &File{}
	docs := splitYAML(data)
	if strings.HasSuffix(name, ".json") {
		if split, ok := splitJSON(data); ok {
			docs = split
		}
	}
	for _, d := range docs {
		d.file = name
		f.document(d)
	}
	return f
}

// A document is a part of a file, and the line on which it starts.
type document struct {
	file string
	text []byte
	line int
	path string // of the object in text, when text is a List
	flat bool   // its lines are not lines of the file: all of it is on line
	tree *tree  // text parsed, for whoever asks for many lines of it; nil: it is parsed each time
}

// splitYAML cuts at lines that begin with "---". Such a line cannot be content:
// not even a block scalar may contain it (YAML 1.2, section 9.1.2).
func splitYAML(data []byte) []document {
	var docs []document
	start, line, startLine := 0, 1, 1
	for i := 0; i < len(data); line++ {
		end := len(data)
		if n := bytes.IndexByte(data[i:], '\n'); n >= 0 {
			end = i + n + 1
		}
		if l := data[i:end]; bytes.HasPrefix(l, []byte("---")) && (len(l) == 3 || strings.IndexByte(" \t\r\n", l[3]) >= 0) {
			docs = append(docs, document{text: data[start:i], line: startLine})
			start, startLine = i+3, line // what follows on the line is content
		}
		i = end
	}
	return append(docs, document{text: data[start:], line: startLine})
}

// splitJSON cuts a stream of JSON values; ok is false when it is not one.
func splitJSON(data []byte) (docs []document, ok bool) {
	dec := json.NewDecoder(bytes.NewReader(data))
	for {
		start := int(dec.InputOffset())
		var raw json.RawMessage
		if err := dec.Decode(&raw); errors.Is(err, io.EOF) {
			return docs, true
		} else if err != nil {
			return nil, false
		}
		for start < len(data) && strings.IndexByte(" \t\r\n", data[start]) >= 0 {
			start++
		}
		docs = append(docs, document{text: raw, line: 1 + bytes.Count(data[:start], []byte("\n"))})
	}
}

// A header is what tells one object from another.
type header struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Items []json.RawMessage `json:"items"`
}

func (f *File) document(d document) {
	raw, err := yaml.YAMLToJSONStrict(d.text)
	if err != nil {
		f.Errors = append(f.Errors, d.syntaxError(err))
		return
	}
	if raw = bytes.TrimSpace(raw); bytes.Equal(raw, []byte("null")) {
		return // nothing but comments
	}
	f.object(d, raw)
}

func (f *File) object(d document, raw []byte) {
	var h header
	if err := json.Unmarshal(raw, &h); err != nil {
		f.Errors = append(f.Errors, &Error{File: d.file, Line: d.at(""), Reason: "not a Kubernetes object: " + plainReason(err)})
		return
	}
	switch {
	case h.APIVersion == "" || h.Kind == "":
		f.Errors = append(f.Errors, &Error{File: d.file, Line: d.at(""), Reason: "not a Kubernetes object: it needs apiVersion and kind"})
	case h.APIVersion == "v1" && h.Kind == "List":
		for i, item := range h.Items {
			in := d
			in.path = join(d.path, "items["+strconv.Itoa(i)+"]")
			f.object(in, item)
		}
	default:
		f.known(d, &h, raw)
	}
}

func (f *File) known(d document, h *header, raw []byte) {
	k, ok := kinds[kind{h.APIVersion, h.Kind}]
	if !ok {
		f.Unknown = append(f.Unknown, Unknown{Kind: h.APIVersion + " " + h.Kind, Name: h.Metadata.Name, File: d.file, Line: d.at("")})
		return
	}
	o := &Object{Key: mesh.Key{Kind: h.Kind, Namespace: h.Metadata.Namespace, Name: h.Metadata.Name}, File: d.file, Line: d.at("")}
	switch {
	case k.cluster:
		o.Key.Namespace = ""
	case o.Key.Namespace == "":
		o.Key.Namespace = "default" // as kubectl does
	}
	if o.Key.Name == "" {
		f.Errors = append(f.Errors, &Error{File: d.file, Line: d.at(""), Object: o.Key, Field: "metadata.name", Reason: "is required"})
		return
	}
	v, fault := k.decode(raw, o.Key)
	if m, ok := v.(*corev1.ConfigMap); ok {
		v = newConfigMap(d, m)
	}
	o.value = v
	if fault != nil {
		o.Err = &Error{File: d.file, Line: d.at(fault.field), Object: o.Key, Field: fault.field, Reason: fault.reason}
	}
	f.Objects = append(f.Objects, o)
}

// A fault is what is wrong with an object.
type fault struct{ field, reason string }

func faultf(field, format string, args ...any) *fault {
	return &fault{field, fmt.Sprintf(format, args...)}
}

var yamlLine = regexp.MustCompile(`\bline (\d+)(: )?`)

// syntaxError says where in the file the YAML is broken: the parser counts from
// the start of the document.
func (d document) syntaxError(err error) *Error {
	e := &Error{File: d.file, Line: d.line}
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "error converting YAML to JSON: "), "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:\n  ")
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil && n > 0 && !d.flat {
			e.Line = d.line + n - 1
			text = strings.Replace(text, m[0], "", 1)
		}
	}
	text, _, _ = strings.Cut(text, "\n")
	e.Reason = "not YAML: " + text
	return e
}

// plainReason strips what a JSON decoder says about Go.
func plainReason(err error) string {
	text := strings.TrimPrefix(err.Error(), "json: ")
	if i := strings.Index(text, " into Go "); i >= 0 {
		text = text[:i]
	}
	return text
}

func join(path, field string) string {
	if path == "" || field == "" || field[0] == '[' {
		return path + field
	}
	return path + "." + field
}
