package program

import (
	"cmp"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/file"
)

// defaultTrustDomain is that of a mesh that does not say.
const defaultTrustDomain = "cluster.local"

// Given reports whether a flag was given, or its variable.
func (o *Options) Given(flag string) bool { return o.set != nil && o.set.Changed(flag) }

// adopt takes from MeshConfig, nil if there is none, what no flag says and must be
// known before there can be a certificate.
func (o *Options) adopt(m *config.Mesh) {
	if m == nil {
		return
	}
	if !o.Given("trust-domain") {
		o.TrustDomain = cmp.Or(m.TrustDomain, o.TrustDomain)
	}
	if !o.Given("root-namespace") {
		o.RootNamespace = cmp.Or(m.RootNamespace, o.RootNamespace)
	}
	if !o.Given("trust-domain-alias") {
		o.Aliases = m.Aliases
	}
}

// compareMesh returns a listener to what is read, which warns once when MeshConfig
// says otherwise than when it was adopted. namespace is the root namespace if it
// does not say.
func (p *Process) compareMesh(namespace string) func(file.Report) {
	o := p.Options
	said := map[string]string{"trustDomain": o.TrustDomain, "rootNamespace": o.RootNamespace}
	compare := func(flag, field, now, inForce string) {
		if !o.Given(flag) && now != said[field] && now != inForce {
			p.Log.Scope("config").Warn("MeshConfig has changed in what is read at start only: restart to have it in force", "field", field, "value", now, "in force", inForce)
		}
		said[field] = now
	}
	return func(file.Report) {
		if m := p.files.Mesh(); m != nil { // else it has gone, or is not there yet
			compare("trust-domain", "trustDomain", cmp.Or(m.TrustDomain, defaultTrustDomain), o.TrustDomain)
			compare("root-namespace", "rootNamespace", cmp.Or(m.RootNamespace, namespace), o.RootNamespace)
		}
	}
}
