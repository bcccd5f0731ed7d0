package rego

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/loader"
	opa "github.com/open-policy-agent/opa/v1/rego"

	"github.com/waystone-mesh/waystone/internal/extauthz"
)

// AuthorizerOptions say where an Authorizer's policy comes from: Path, or
// Modules, or both.
type AuthorizerOptions struct {
	// Path is a file or directory of Rego and data, or a bundle (.tar.gz).
	Path string

	// Modules are further ones by file name: a ConfigMap's.
	Modules map[string]string

	// Decision is the rule that decides, as OPA's plugin for Envoy has it in
	// plugins.envoy_ext_authz_grpc.path; "": envoy/authz/allow.
	Decision string

	// Log takes a line of JSON for each decision, as OPA's decision logs have
	// it; nil: none.
	Log io.Writer
}

// An Authorizer decides by policies that were written for OPA's plugin for Envoy
// (github.com/open-policy-agent/opa-envoy-plugin): their input and what they
// answer are the same. It is immutable and safe for concurrent use.
type Authorizer struct {
	o     AuthorizerOptions
	query opa.PreparedEvalQuery
}

// NewAuthorizer compiles a policy. An error says where in which file.
func NewAuthorizer(ctx context.Context, o AuthorizerOptions) (*Authorizer, error) {
	if o.Decision == "" {
		o.Decision = "envoy/authz/allow"
	}
	ref, err := decisionRef(o.Decision)
	if err != nil {
		return nil, err
	}
	options := []func(*opa.Rego){opa.Query("decision := " + ref), opa.StrictBuiltinErrors(false)}
	if o.Path != "" {
		b, err := load(o.Path)
		if err != nil {
			return nil, fmt.Errorf("rego: load %s: %w", o.Path, err)
		}
		options = append(options, opa.ParsedBundle("policy", b))
	}
	for _, name := range slices.Sorted(maps.Keys(o.Modules)) {
		options = append(options, opa.Module(name, o.Modules[name]))
	}
	q, err := opa.New(options...).PrepareForEval(ctx)
	if err != nil {
		return nil, fmt.Errorf("rego: compile: %w", err)
	}
	return &Authorizer{o, q}, nil
}

// load reads a bundle, or files as if they were one.
func load(path string) (*bundle.Bundle, error) {
	if strings.HasSuffix(path, ".tar.gz") {
		return loader.NewFileLoader().AsBundle(path)
	}
	all, err := loader.NewFileLoader().All([]string{path})
	if err != nil {
		return nil, err
	}
	b := &bundle.Bundle{Data: all.Documents}
	b.Manifest.Init()
	for _, name := range slices.Sorted(maps.Keys(all.Modules)) {
		m := all.Modules[name]
		b.Modules = append(b.Modules, bundle.ModuleFile{URL: name, Path: name, Parsed: m.Parsed, Raw: m.Raw})
	}
	if len(b.Modules) == 0 {
		return nil, errors.New("there is no Rego in it")
	}
	return b, nil
}

// decisionRef turns a path into a reference to data.
func decisionRef(path string) (string, error) {
	ref := ast.Ref{ast.DefaultRootDocument}
	for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if part == "" {
			return "", fmt.Errorf("rego: decision path %q: an empty part", path)
		}
		ref = append(ref, ast.StringTerm(part))
	}
	return ref.String(), nil
}

// Ask decides about r; see [extauthz.Options]. It is an error if the policy does
// not decide: its rule is undefined, or neither a boolean nor an object with
// one.
func (a *Authorizer) Ask(ctx context.Context, r *extauthz.Request) (extauthz.Answer, error) {
	began := time.Now()
	input, err := envoyInput(r)
	if err != nil {
		return extauthz.Answer{}, fmt.Errorf("rego: input: %w", err)
	}
	value, err := ast.InterfaceToValue(input)
	if err != nil {
		return extauthz.Answer{}, fmt.Errorf("rego: input: %w", err)
	}
	var result any
	results, err := a.query.Eval(ctx, opa.EvalParsedInput(value))
	if err == nil && len(results) == 1 {
		result = results[0].Bindings["decision"]
	}
	var answer extauthz.Answer
	if err == nil {
		answer, err = fromDecision(result)
	} else {
		err = fmt.Errorf("rego: evaluate: %w", err)
	}
	a.log(r, input, result, err, time.Since(began))
	return answer, err
}

// A decision is what a policy may answer with. Headers have a string or a list of
// them for each name.
type decision struct {
	Allowed               *bool          `json:"allowed"`
	Headers               map[string]any `json:"headers"`
	ResponseHeadersToAdd  map[string]any `json:"response_headers_to_add"`
	RequestHeadersRemoved []string       `json:"request_headers_to_remove"`
	QueryToSet            map[string]any `json:"query_parameters_to_set"`
	QueryToRemove         []string       `json:"query_parameters_to_remove"`
	Status                int            `json:"http_status"`
	Body                  string         `json:"body"`
}

func fromDecision(result any) (extauthz.Answer, error) {
	switch result := result.(type) {
	case nil:
		return extauthz.Answer{}, errors.New("rego: the decision is undefined")
	case bool:
		return extauthz.Answer{Allowed: result, Status: http.StatusForbidden}, nil
	case map[string]any:
		return fromObject(result)
	}
	return extauthz.Answer{}, fmt.Errorf("rego: the decision is a %T: neither a boolean nor an object", result)
}

func fromObject(result map[string]any) (extauthz.Answer, error) {
	text, err := json.Marshal(result)
	if err != nil {
		return extauthz.Answer{}, fmt.Errorf("rego: the decision: %w", err)
	}
	var d decision
	switch err := json.Unmarshal(text, &d); {
	case err != nil:
		return extauthz.Answer{}, fmt.Errorf("rego: the decision: %w", err)
	case d.Allowed == nil:
		return extauthz.Answer{}, errors.New("rego: the decision has no allowed")
	}
	headers, err := edits("headers", d.Headers)
	if err != nil {
		return extauthz.Answer{}, err
	}
	if !*d.Allowed {
		a := extauthz.Answer{Status: d.Status, Body: []byte(d.Body), Fields: extauthz.Apply(nil, headers)}
		if a.Status == 0 {
			a.Status = http.StatusForbidden
		}
		if a.Status < 200 || a.Status > 599 {
			return extauthz.Answer{}, fmt.Errorf("rego: the decision: http_status: %d is none", a.Status)
		}
		return a, nil
	}
	a := extauthz.Answer{Allowed: true, Edits: headers, RemoveQuery: d.QueryToRemove}
	for _, name := range d.RequestHeadersRemoved {
		a.Edits = append(a.Edits, extauthz.Edit{Action: extauthz.Remove, Name: strings.ToLower(name)})
	}
	if a.Response, err = edits("response_headers_to_add", d.ResponseHeadersToAdd); err != nil {
		return extauthz.Answer{}, err
	}
	set, err := edits("query_parameters_to_set", d.QueryToSet)
	for _, e := range set {
		a.SetQuery = append(a.SetQuery, extauthz.Parameter{Name: e.Name, Value: e.Value})
	}
	return a, err
}

// edits reads names with a string or a list of strings each.
func edits(field string, values map[string]any) ([]extauthz.Edit, error) {
	var all []extauthz.Edit
	for _, key := range slices.Sorted(maps.Keys(values)) {
		name := key
		if field != "query_parameters_to_set" {
			name = strings.ToLower(key)
		}
		list, ok := values[key].([]any)
		if !ok {
			list = []any{values[key]}
		}
		for i, v := range list {
			s, ok := v.(string)
			if !ok {
				return nil, fmt.Errorf("rego: the decision: %s[%q] is neither a string nor a list of strings", field, key)
			}
			e := extauthz.Edit{Name: name, Value: s}
			if i > 0 {
				e.Action = extauthz.Append
			}
			if field == "query_parameters_to_set" || e.Valid() {
				all = append(all, e)
			}
		}
	}
	return all, nil
}

// log writes a line about a decision. Credentials are left out of it.
func (a *Authorizer) log(r *extauthz.Request, input map[string]any, result any, err error, took time.Duration) {
	if a.o.Log == nil {
		return
	}
	hide(input)
	entry := map[string]any{
		"decision_id": r.Head.Fields.Get("x-request-id"), "path": a.o.Decision, "input": input, "result": result,
		"timestamp": r.At.UTC().Format(time.RFC3339Nano), "metrics": map[string]any{"timer_server_handler_ns": took.Nanoseconds()},
	}
	if err != nil {
		entry["error"] = err.Error()
	}
	if line, err := json.Marshal(entry); err == nil {
		_, _ = a.o.Log.Write(append(line, '\n')) // a log never keeps a request
	}
}

// hide replaces what the input has that grants access.
func hide(input map[string]any) {
	headers := at(input, "attributes", "request", "http", "headers")
	for _, name := range []string{"authorization", "cookie", "proxy-authorization", "x-api-key"} {
		if _, there := headers[name]; there {
			headers[name] = "[hidden]"
		}
	}
	if http := at(input, "attributes", "request", "http"); http["body"] != nil {
		http["body"] = "[hidden]"
	}
	if input["parsed_body"] != nil {
		input["parsed_body"] = "[hidden]"
	}
}

func at(m map[string]any, path ...string) map[string]any {
	for _, name := range path {
		m, _ = m[name].(map[string]any)
	}
	return m
}
