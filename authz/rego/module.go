package rego

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
)

// Module writes policies as a Rego module, which needs the prelude.
func Module(o authz.Options, policies ...*authz.Policy) (string, error) {
	m := module{o: o, restricted: map[string]bool{}}
	for i, p := range policies {
		if err := m.policy(fmt.Sprintf("p%d", i), p); err != nil {
			return "", err
		}
	}
	return m.head() + m.body.String(), nil
}

// A module is a Rego module being written.
type module struct {
	o          authz.Options
	body       strings.Builder
	restricted map[string]bool // allow, dry_allow: there is a policy of the kind
}

// head says what the prelude asks about the set as a whole.
func (m *module) head() string {
	domains := []string{"cluster.local"}
	if m.o.TrustDomain != "" {
		domains[0] = m.o.TrustDomain
	}
	domains = append(domains, m.o.Aliases...)
	head := "package waystone.authz\n\ntrust_domains := " + quoted(domains) + "\n\n"
	if m.restricted["allow"] {
		head += "# There is an ALLOW policy.\nrestricted := true\n\n"
	}
	return head
}

func (m *module) policy(name string, p *authz.Policy) error {
	if err := authz.Validate(p); err != nil {
		return err
	}
	if p.Action == authz.Custom && m.o.Providers == nil && !m.o.L4 {
		return fmt.Errorf("rego: AuthorizationPolicy %s/%s: action CUSTOM: %w", p.Namespace, p.Name, authz.ErrUnsupported)
	}
	if m.o.L4 && (p.Action == authz.Audit || p.Action == authz.Custom) || p.Action == authz.Custom && p.DryRun {
		return nil
	}
	set := strings.ToLower(p.Action.String())
	if p.DryRun && p.Action != authz.Audit {
		set = "dry_" + set
	}
	m.restricted[set] = true
	for i := range p.Rules {
		if err := m.rule(fmt.Sprintf("%s_rule%d", name, i), set, p, i); err != nil {
			return err
		}
	}
	return nil
}

// rule writes rule i of p as a Rego rule called name, which has a body for each
// kind of traffic that p treats differently, and adds it to set.
func (m *module) rule(name, set string, p *authz.Policy, i int) error {
	element := strconv.Quote(ruleID(p, i))
	if p.Action == authz.Custom {
		set, element = m.custom(p, i)
	}
	fmt.Fprintf(&m.body, "# AuthorizationPolicy %s/%s, spec.rules[%d]\n%s contains %s if %s\n\n", p.Namespace, p.Name, i, set, element, name)
	views := []view{{name: "http", guard: "input.http"}, {name: "tcp", guard: "not input.http", lacks: overHTTP}}
	switch {
	case p.Action == authz.Custom && m.o.Providers[p.Provider].HTTPOnly():
		views = views[:1]
	case m.o.L4:
		views = []view{{name: "node", guard: "true", lacks: atNode}}
	}
	for _, v := range views {
		parts, ok, err := v.parts(p, &p.Rules[i])
		if err != nil {
			return err
		}
		body := []string{v.guard}
		if !ok {
			body = append(body, "false # it allows by what cannot be seen")
		}
		for _, part := range parts {
			full := name + "_" + v.name + "_" + part.name
			for _, conditions := range part.alternatives {
				m.write(full, conditions)
			}
			body = append(body, full)
		}
		m.write(name, body)
	}
	return nil
}

// custom returns the set that a CUSTOM rule belongs to, and what it is there.
func (m *module) custom(p *authz.Policy, i int) (set, element string) {
	id := "istio-ext-authz-" + p.Provider + "-" + ruleID(p, i)
	if _, known := m.o.Providers[p.Provider]; !known {
		return "refuse", strconv.Quote(id + "-deny-due-to-bad-CUSTOM-action")
	}
	return "custom", quoted([]string{p.Provider, id})
}

// ruleID names a rule as the access log does.
func ruleID(p *authz.Policy, rule int) string {
	return fmt.Sprintf("ns[%s]-policy[%s]-rule[%d]", p.Namespace, p.Name, rule)
}

func (m *module) write(name string, body []string) {
	fmt.Fprintf(&m.body, "%s if {\n\t%s\n}\n\n", name, strings.Join(body, "\n\t"))
}

// A view is the kind of traffic that a rule is written for.
type view struct {
	name, guard string
	lacks       func(term) bool // what it cannot see; nil: it sees everything
}

func overHTTP(t term) bool { return t.http }
func atNode(t term) bool   { return !t.node }

// A part is what a rule's from, to or one of its when demands: one of the
// alternatives, of which every condition must hold.
type part struct {
	name         string
	alternatives [][]string
}

// parts returns the parts of a rule, or false if it is to be left out.
func (v view) parts(p *authz.Policy, r *authz.Rule) (parts []part, ok bool, err error) {
	add := func(name string, list [][]term) error {
		pt := part{name: name}
		for _, terms := range list {
			conditions, seen, err := v.conditions(p, terms)
			if err != nil {
				return err
			}
			ok = ok && seen
			pt.alternatives = append(pt.alternatives, conditions)
		}
		if len(list) > 0 {
			parts = append(parts, pt)
		}
		return nil
	}
	var from, to [][]term
	for i := range r.From {
		from = append(from, sourceTerms(&r.From[i], p.Namespace))
	}
	for i := range r.To {
		to = append(to, operationTerms(&r.To[i]))
	}
	ok = true
	err = errors.Join(add("from", from), add("to", to))
	for i := range r.When {
		err = errors.Join(err, add(fmt.Sprintf("when%d", i), [][]term{{conditionTerm(&r.When[i], p.Namespace)}}))
	}
	if !ok || err != nil {
		return nil, false, err
	}
	return parts, true, nil
}

// conditions writes the terms of one source, operation or condition.
func (v view) conditions(p *authz.Policy, terms []term) (out []string, ok bool, err error) {
	for _, t := range terms {
		if len(t.values)+len(t.notValues) == 0 {
			continue
		}
		if v.lacks != nil && v.lacks(t) {
			if p.Action == authz.Allow {
				return nil, false, nil
			}
			continue
		}
		if t.function == "" {
			return nil, false, fmt.Errorf("rego: %s: %w", t.unsupported, authz.ErrUnsupported)
		}
		if v.name == "node" && t.function == "any_namespace" {
			t.function = "any_node_namespace"
		}
		out = append(out, t.rego()...)
	}
	if len(out) == 0 {
		// Nothing is asked for: anything will do, except at the node.
		return []string{strconv.FormatBool(v.name != "node")}, true, nil
	}
	return out, true, nil
}

// A term is one field of a source or operation, or a condition.
type term struct {
	function          string // of the prelude
	argument          string // the first one of those functions that have two
	unsupported       string // what the term asks for, if there is no function
	values, notValues []string
	http              bool // only a request has it
	node              bool // the node tunnel enforces it
}

func sourceTerms(s *authz.Source, ns string) []term {
	return []term{
		{function: "any_principal", values: s.Principals, notValues: s.NotPrincipals, node: true},
		{function: "any_request_principal", values: s.RequestPrincipals, notValues: s.NotRequestPrincipals, http: true},
		{function: "any_namespace", values: s.Namespaces, notValues: s.NotNamespaces, node: true},
		{function: "any_account", values: inNamespace(ns, s.ServiceAccounts), notValues: inNamespace(ns, s.NotServiceAccounts), node: true},
		{function: "any_trust_domain", values: s.TrustDomains, notValues: s.NotTrustDomains},
		{function: "any_source_ip", values: s.IPBlocks, notValues: s.NotIPBlocks, node: true},
		{function: "any_source_ip", values: s.RemoteIPBlocks, notValues: s.NotRemoteIPBlocks},
	}
}

func operationTerms(o *authz.Operation) []term {
	return []term{
		{function: "any_host", values: o.Hosts, notValues: o.NotHosts, http: true},
		{function: "any_port", values: o.Ports, notValues: o.NotPorts, node: true},
		{function: "any_method", values: o.Methods, notValues: o.NotMethods, http: true},
		{function: "any_path", values: o.Paths, notValues: o.NotPaths, http: true},
	}
}

func conditionTerm(w *authz.Condition, ns string) term {
	t := term{values: w.Values, notValues: w.NotValues}
	switch w.Key {
	case "source.ip":
		t.function, t.node = "any_source_ip", true
	case "remote.ip":
		t.function = "any_source_ip"
	case "source.namespace":
		t.function, t.node = "any_namespace", true
	case "source.principal":
		t.function, t.node = "any_principal", true
	case "source.serviceAccount":
		t.function, t.values, t.notValues = "any_account", inNamespace(ns, w.Values), inNamespace(ns, w.NotValues)
	case "source.trustDomain":
		t.function = "any_trust_domain"
	case "destination.ip":
		t.function, t.node = "any_destination_ip", true
	case "destination.port":
		t.function, t.node = "any_port", true
	case "connection.sni":
		t.function = "any_sni"
	case "request.auth.principal":
		t.function, t.http = "any_request_principal", true
	case "request.auth.audiences":
		t.function, t.argument, t.http = "any_claim", `["aud"]`, true
	case "request.auth.presenter":
		t.function, t.argument, t.http = "any_claim", `["azp"]`, true
	default:
		t.named(w.Key)
	}
	return t
}

// named completes the term of a condition whose key has names in brackets.
func (t *term) named(key string) {
	if claim, ok := strings.CutPrefix(key, "request.auth.claims["); ok {
		path := strings.Split(strings.TrimSuffix(claim, "]"), "][")
		t.function, t.argument, t.http = "any_claim", quoted(path), true
		return
	}
	if name, ok := strings.CutPrefix(key, "request.headers["); ok {
		name = strings.ToLower(strings.TrimSuffix(name, "]"))
		t.function, t.argument, t.http = "any_header", strconv.Quote(name), true
		return
	}
	t.unsupported = key
}

func inNamespace(ns string, accounts []string) (out []string) {
	for _, a := range accounts {
		if !strings.Contains(a, "/") {
			a = ns + "/" + a
		}
		out = append(out, a)
	}
	return out
}

// rego writes t: one of its values, and none of its notValues.
func (t term) rego() (out []string) {
	if len(t.values) > 0 {
		out = append(out, t.calls(t.values, ""))
	}
	if len(t.notValues) > 0 {
		out = append(out, t.calls(t.notValues, "not "))
	}
	return out
}

// calls writes the call of t's function. Of paths, templates are asked for apart.
func (t term) calls(values []string, not string) string {
	switch t.function {
	case "any_path":
		return pathCall(values, not)
	case "any_port":
		return not + t.function + "([" + strings.Join(values, ", ") + "])"
	case "any_source_ip", "any_destination_ip":
		var blocks []string
		for _, v := range values {
			blocks = append(blocks, block(v))
		}
		values = blocks
	case "any_header", "any_claim":
		return fmt.Sprintf("%s%s(%s, %s)", not, t.function, t.argument, quoted(values))
	}
	return fmt.Sprintf("%s%s(%s)", not, t.function, quoted(values))
}

// block writes an address as a block of one.
func block(v string) string {
	switch {
	case strings.Contains(v, "/"):
		return v
	case strings.Contains(v, ":"):
		return v + "/128"
	}
	return v + "/32"
}

// quoted writes an array of strings, as JSON and Rego have them.
func quoted(values []string) string {
	var out []string
	for _, v := range values {
		var b strings.Builder
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		_ = e.Encode(v) // a string into memory
		out = append(out, strings.TrimSuffix(b.String(), "\n"))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// pchars are the characters that {*} stands for.
const pchars = `a-zA-Z0-9._~%!$&'()+,;:@=-`

// pathCall asks for one of several paths. All become regular expressions if one
// is a template, so that it is one call that can be negated.
func pathCall(values []string, not string) string {
	all := strings.Join(values, " ")
	if !strings.Contains(all, "{*}") && !strings.Contains(all, "{**}") {
		return fmt.Sprintf("%sany_path(%s)", not, quoted(values))
	}
	var expressions []string
	for _, v := range values {
		expressions = append(expressions, "^"+pathExpression(v)+"$")
	}
	return fmt.Sprintf("%sany_path_template(%s)", not, quoted(expressions))
}

func pathExpression(v string) string {
	switch {
	case strings.Contains(v, "{*}"), strings.Contains(v, "{**}"):
		x := regexp.QuoteMeta(v)
		x = strings.ReplaceAll(x, regexp.QuoteMeta("{**}"), "[/"+pchars+"]*")
		return strings.ReplaceAll(x, regexp.QuoteMeta("{*}"), "["+pchars+"]+")
	case v == "*":
		return "(?s:.+)"
	case strings.HasPrefix(v, "*"):
		return "(?s:.*)" + regexp.QuoteMeta(v[1:])
	case strings.HasSuffix(v, "*"):
		return regexp.QuoteMeta(v[:len(v)-1]) + "(?s:.*)"
	}
	return regexp.QuoteMeta(v)
}
