package opa

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/waystone-mesh/waystone/internal/extauthz"
)

// answerOf reads what a policy decided: a boolean, or an object with one. Other
// than the decision's, dynamic_metadata is not looked at: in Envoy it is for the
// filters that follow, and there are none here that read it.
func answerOf(result any) (extauthz.Answer, error) {
	switch result := result.(type) {
	case bool:
		return extauthz.Answer{Allowed: result, Status: http.StatusForbidden}, nil
	case map[string]any:
		d := decision{fields: result}
		a := d.answer()
		if d.err != nil {
			return extauthz.Answer{}, d.err
		}
		return a, nil
	}
	return extauthz.Answer{}, fmt.Errorf("opa: the decision is %s: neither a boolean nor an object", kindOf(result))
}

// A decision is an object that a policy answered with, being read.
type decision struct {
	fields map[string]any
	err    error // the first thing that is wrong with it
}

func (d *decision) answer() extauthz.Answer {
	allowed, there := d.fields["allowed"]
	yes, boolean := allowed.(bool)
	switch {
	case !there:
		d.fail("allowed", "is missing")
	case !boolean:
		d.fail("allowed", "is %s and not a boolean", kindOf(allowed))
	}
	headers := d.edits("headers")
	if !yes {
		fields := extauthz.Apply(nil, headers)
		return extauthz.Answer{Status: d.status(), Body: []byte(d.text("body")), Fields: fields}
	}
	a := extauthz.Answer{Allowed: true, Edits: headers, Response: d.edits("response_headers_to_add")}
	for i := range a.Response { // as it says, added
		a.Response[i].Action = extauthz.Append
	}
	for _, name := range d.list("request_headers_to_remove") {
		e := extauthz.Edit{Action: extauthz.Remove, Name: strings.ToLower(name)}
		if e.Valid() {
			a.Edits = append(a.Edits, e)
		}
	}
	d.each("query_parameters_to_set", d.fields["query_parameters_to_set"], func(name, value string) {
		a.SetQuery = append(a.SetQuery, extauthz.Parameter{Name: name, Value: value})
	})
	a.RemoveQuery = d.list("query_parameters_to_remove")
	return a
}

func (d *decision) fail(field, reason string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("opa: the decision: %s %s", field, fmt.Sprintf(reason, args...))
	}
}

// status is that of a refusal.
func (d *decision) status() int {
	v, there := d.fields["http_status"]
	if !there {
		return http.StatusForbidden
	}
	n, ok := v.(json.Number)
	code, err := n.Int64()
	switch {
	case !ok:
		d.fail("http_status", "is %s and not a number", kindOf(v))
	case err != nil || code < 200 || code > 599:
		d.fail("http_status", "%s is none of a response", n)
	}
	return int(code)
}

func (d *decision) text(field string) string {
	v, there := d.fields[field]
	s, ok := v.(string)
	if there && !ok {
		d.fail(field, "is %s and not a string", kindOf(v))
	}
	return s
}

func (d *decision) list(field string) []string {
	v, there := d.fields[field]
	items, ok := v.([]any)
	if there && !ok {
		d.fail(field, "is %s and not an array", kindOf(v))
	}
	var all []string
	for _, item := range items {
		s, ok := item.(string)
		if !ok {
			d.fail(field, "has %s among its strings", kindOf(item))
		}
		all = append(all, s)
	}
	return all
}

// edits reads headers, by name or as a list of objects that have them by name.
// The first of a name takes the place of whatever there is, the others are added.
func (d *decision) edits(field string) []extauthz.Edit {
	var all []extauthz.Edit
	objects, ok := d.fields[field].([]any)
	if !ok {
		objects = []any{d.fields[field]}
	}
	for _, o := range objects {
		d.each(field, o, func(name, value string) {
			e := extauthz.Edit{Name: strings.ToLower(name), Value: value}
			if slices.ContainsFunc(all, func(before extauthz.Edit) bool { return before.Name == e.Name }) {
				e.Action = extauthz.Append
			}
			if e.Valid() {
				all = append(all, e)
			}
		})
	}
	return all
}

// each calls f with every value of an object that has a string, or an array of
// them, for each name.
func (d *decision) each(field string, v any, f func(name, value string)) {
	if v == nil {
		return
	}
	object, ok := v.(map[string]any)
	if !ok {
		d.fail(field, "is %s and not an object", kindOf(v))
		return
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		values, ok := object[name].([]any)
		if !ok {
			values = []any{object[name]}
		}
		for _, value := range values {
			s, ok := value.(string)
			if !ok {
				d.fail(fmt.Sprintf("%s[%q]", field, name), "is neither a string nor an array of strings")
				return
			}
			f(name, s)
		}
	}
}
