// Package rego says in Rego what a set of AuthorizationPolicies says, and has it
// evaluated by OPA.
//
// It is the oracle of package authz: another reading of the same specification,
// by another evaluator, against which the native matcher is fuzzed. The module
// it writes is meant to be read, too. It is hundreds of times slower than
// authz.Set and never decides about a request that has one.
package rego

import (
	"context"
	_ "embed" // the prelude
	"encoding/json"
	"fmt"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/opa"
)

//go:embed prelude.rego
var prelude string

// An Oracle answers as a set of policies would. It is safe for concurrent use.
type Oracle struct{ query *opa.Query }

// An Answer is what the oracle says about an Input.
type Answer struct {
	Allowed bool
	Rule    string // the ID of the rule that decided, "none" if none allowed, "" if none had to
	Audit   bool

	// Ask has the rules by which providers are asked, in order. The rest of the
	// Answer is what holds if all of them say yes.
	Ask []string

	// DryDeny and DryAllow are the first rules under dry run that match.
	DryDeny, DryAllow string
}

// New returns the oracle for policies, which must be valid and supported.
func New(ctx context.Context, o authz.Options, policies ...*authz.Policy) (*Oracle, error) {
	rules, err := Module(o, policies...)
	if err != nil {
		return nil, err
	}
	q, err := opa.Prepare(ctx, "data.waystone.authz.answer", map[string]string{"prelude.rego": prelude, "policies.rego": rules})
	if err != nil {
		return nil, fmt.Errorf("rego: %w", err)
	}
	return &Oracle{q}, nil
}

// Check asks the oracle about in.
func (o *Oracle) Check(ctx context.Context, in *authz.Input) (Answer, error) {
	answer, err := o.query.Eval(ctx, Document(in))
	if err != nil {
		return Answer{}, fmt.Errorf("rego: %w", err)
	}
	return decode(answer)
}

func decode(v any) (Answer, error) {
	var a struct {
		Verdict struct {
			Allowed bool
			Rule    string
		}
		Audit    bool
		Ask      []string
		DryDeny  string `json:"dry_deny"`
		DryAllow string `json:"dry_allow"`
	}
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	if err != nil {
		return Answer{}, fmt.Errorf("rego: answer: %w", err)
	}
	return Answer{a.Verdict.Allowed, a.Verdict.Rule, a.Audit, a.Ask, a.DryDeny, a.DryAllow}, nil
}

// Document returns in as the modules see it. What in lacks, the document lacks.
func Document(in *authz.Input) map[string]any {
	doc := map[string]any{}
	if !in.Peer.IsZero() {
		doc["uri"] = in.Peer.String()
		doc["principal"] = in.Peer.Principal()
		doc["namespace"] = in.Peer.Namespace
	}
	if in.Source.IsValid() {
		doc["source_ip"] = in.Source.Unmap().WithZone("").String()
	}
	if in.Dest.IsValid() {
		doc["destination_ip"] = in.Dest.Addr().Unmap().WithZone("").String()
		doc["port"] = in.Dest.Port()
	}
	put(doc, "sni", strings.ToLower(in.SNI))
	if in.HTTP != nil {
		doc["http"] = request(in.HTTP)
	}
	if t := in.Token; t != nil {
		token := map[string]any{"claims": t.Claims}
		for _, name := range []string{"iss", "sub"} {
			if text, ok := t.Claims[name].(string); ok {
				token[name] = text
			}
		}
		doc["token"] = token
	}
	return doc
}

func request(r *l7.Request) map[string]any {
	doc, headers := map[string]any{}, map[string]any{}
	put(doc, "method", r.Method)
	put(doc, "host", r.Authority)
	path, _, _ := strings.Cut(r.PathOnly(), "#")
	put(doc, "path", path)
	for _, f := range r.Fields {
		headers[f.Name], _ = r.Fields.Joined(f.Name)
	}
	put(headers, ":method", r.Method)
	put(headers, ":scheme", r.Scheme)
	put(headers, ":path", r.Path)
	put(headers, ":authority", r.Authority)
	put(headers, "host", r.Authority)
	put(headers, "upgrade", r.Upgrade)
	doc["headers"] = headers
	return doc
}

// put sets what is there.
func put(doc map[string]any, name, value string) {
	if value != "" {
		doc[name] = value
	}
}
