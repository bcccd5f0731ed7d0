package rego

import (
	"bytes"
	"encoding/json"
	"mime"
	"net/url"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/extauthz"
)

// seesContent has the input hold the content of a request, if it was kept.
var seesContent = &authz.Provider{Kind: authz.OPA, Body: &authz.Body{}}

// envoyInput writes the input document of OPA's plugin for Envoy: the attributes
// of the check as JSON, and the path, the query and the content taken apart.
func envoyInput(r *extauthz.Request) (map[string]any, error) {
	text, err := protojson.Marshal(extauthz.Attributes(seesContent, r))
	if err != nil {
		return nil, err
	}
	var attributes map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&attributes); err != nil {
		return nil, err
	}
	path, query := parsedPath(r.Head.Path)
	return map[string]any{
		"attributes":     attributes,
		"parsed_path":    path,
		"parsed_query":   query,
		"parsed_body":    parsedBody(r),
		"truncated_body": r.Partial,
		"version":        map[string]any{"ext_authz": "v3", "encoding": "protojson"},
	}, nil
}

// parsedPath cuts a target into the segments of its path, decoded, and the values
// of its query.
func parsedPath(target string) (path []any, query map[string]any) {
	query = map[string]any{}
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return []any{}, query
	}
	for segment := range strings.SplitSeq(strings.TrimPrefix(u.Path, "/"), "/") {
		path = append(path, segment)
	}
	for name, values := range u.Query() {
		list := make([]any, len(values))
		for i, v := range values {
			list[i] = v
		}
		query[name] = list
	}
	return path, query
}

// parsedBody reads content that says it is JSON or a form; nil is anything else,
// and content of which there is more.
func parsedBody(r *extauthz.Request) any {
	if len(r.Content) == 0 || r.Partial {
		return nil
	}
	kind, _, err := mime.ParseMediaType(r.Head.Fields.Get("content-type"))
	if err != nil {
		return nil
	}
	switch kind {
	case "application/json":
		d := json.NewDecoder(bytes.NewReader(r.Content))
		d.UseNumber()
		var v any
		if d.Decode(&v) == nil {
			return v
		}
	case "application/x-www-form-urlencoded":
		values, err := url.ParseQuery(string(r.Content))
		if err != nil {
			return nil
		}
		form := map[string]any{}
		for name, list := range values {
			items := make([]any, len(list))
			for i, v := range list {
				items[i] = v
			}
			form[name] = items
		}
		return form
	}
	return nil
}
