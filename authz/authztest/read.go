// Package authztest has what the tests of authz and of the packages around it
// share: a reader of AuthorizationPolicy in YAML, and policies and inputs drawn
// from random bytes with a vocabulary so small that they often match.
package authztest

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/waystone-mesh/waystone/authz"
)

// manifest is an AuthorizationPolicy as YAML has it.
type manifest struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		Action   string `json:"action"`
		Provider struct {
			Name string `json:"name"`
		} `json:"provider"`
		Selector *struct {
			MatchLabels map[string]string `json:"matchLabels"`
		} `json:"selector"`
		TargetRefs []authz.TargetRef `json:"targetRefs"`
		Rules      []rule            `json:"rules"`
	} `json:"spec"`
}

type rule struct {
	From []struct {
		Source authz.Source `json:"source"`
	} `json:"from"`
	To []struct {
		Operation authz.Operation `json:"operation"`
	} `json:"to"`
	When []authz.Condition `json:"when"`
}

// Read reads the policies in a YAML stream. A namespace that is missing is
// "default". The caller brings the reader of YAML, whose home is elsewhere:
// yaml.UnmarshalStrict, so that fields that a policy does not have are errors.
func Read[Option any](stream []byte, unmarshal func([]byte, any, ...Option) error) (out []*authz.Policy, err error) {
	stream = append([]byte("\n"), stream...)
	for i, doc := range bytes.Split(stream, []byte("\n---")) {
		if len(bytes.TrimSpace(doc)) == 0 {
			continue
		}
		var m manifest
		if err := unmarshal(doc, &m); err != nil {
			return nil, fmt.Errorf("policy: document %d: %w", i, err)
		}
		p, err := m.policy()
		if err != nil {
			return nil, fmt.Errorf("policy: document %d: %w", i, err)
		}
		out = append(out, p)
	}
	return out, nil
}

func (m *manifest) policy() (*authz.Policy, error) {
	action, err := authz.ParseAction(m.Spec.Action)
	if err != nil {
		return nil, err
	}
	p := &authz.Policy{
		Name: m.Metadata.Name, Namespace: m.Metadata.Namespace,
		Action: action, Provider: m.Spec.Provider.Name,
		Replaces:   m.Metadata.Annotations["waystone.dev/replaces"],
		TargetRefs: m.Spec.TargetRefs,
	}
	if p.Namespace == "" {
		p.Namespace = "default"
	}
	if v := m.Metadata.Annotations["istio.io/dry-run"]; v != "" {
		if p.DryRun, err = strconv.ParseBool(v); err != nil {
			return nil, fmt.Errorf("metadata.annotations[istio.io/dry-run]: %w", err)
		}
	}
	if m.Spec.Selector != nil {
		p.Selector = map[string]string{}
		for k, v := range m.Spec.Selector.MatchLabels {
			p.Selector[k] = v
		}
	}
	for _, r := range m.Spec.Rules {
		p.Rules = append(p.Rules, r.rule())
	}
	return p, nil
}

func (r *rule) rule() (out authz.Rule) {
	if r.From != nil {
		out.From = []authz.Source{}
	}
	for _, f := range r.From {
		out.From = append(out.From, f.Source)
	}
	if r.To != nil {
		out.To = []authz.Operation{}
	}
	for _, t := range r.To {
		out.To = append(out.To, t.Operation)
	}
	out.When = r.When
	return out
}
