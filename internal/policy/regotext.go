package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/rego"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// RegoOptions say which policies are written, and for whom.
type RegoOptions struct {
	Policies []mesh.Key // namespace and name; none: all
	Node     bool       // as the node tunnel sees them
	Bare     bool       // without the prelude, which they need
}

// Rego writes policies in Rego: as if they were attached to one destination.
func (m *Mesh) Rego(o RegoOptions) (string, error) {
	said := m.said()
	opts := authz.Options{TrustDomain: m.o.TrustDomain, Aliases: said.Aliases, RootNamespace: m.o.RootNamespace, L4: o.Node, Providers: said.Providers}
	var policies []*authz.Policy
	var names []string
	found := map[mesh.Key]bool{}
	for _, u := range m.updates {
		p, ok := u.Value.(*authz.Policy)
		if !ok || u.Err != nil || generated(p) {
			continue
		}
		key := mesh.Key{Namespace: p.Namespace, Name: p.Name}
		if len(o.Policies) > 0 && !slices.Contains(o.Policies, key) {
			continue
		}
		found[key] = true
		policies, names = append(policies, p), append(names, p.Namespace+"/"+p.Name)
		if p.Action == authz.Custom && opts.Providers == nil {
			opts.Providers = map[string]*authz.Provider{}
		}
	}
	for _, key := range o.Policies {
		if !found[key] {
			return "", fmt.Errorf("there is no AuthorizationPolicy %s/%s in the manifests, or it is refused", key.Namespace, key.Name)
		}
	}
	if len(policies) == 0 {
		return "", fmt.Errorf("there is no AuthorizationPolicy in the manifests, or all are refused")
	}
	text, err := rego.Module(opts, policies...)
	if err != nil {
		return "", err
	}
	if !o.Bare {
		text = rego.Render(text)
	}
	head := "# " + strings.Join(names, ", ") + " in Rego. To ask it:\n#   opa eval -d THIS_FILE -i input.json data.waystone.authz.answer\n\n"
	return head + text, nil
}
