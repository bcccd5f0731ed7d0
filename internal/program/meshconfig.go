package program

import (
	"cmp"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/file"
)

// defaultTrustDomain is that of a mesh that does not say.
const defaultTrustDomain = "cluster.local"

// given reports whether a flag was given, or its variable.
func (o *options) given(flag string) bool { return o.set != nil && o.set.Changed(flag) }

// adopt takes from MeshConfig, nil if there is none, what no flag says and must be
// known before there can be a certificate.
func (o *options) adopt(m *config.Mesh) {
	if m == nil {
		return
	}
	if !o.given("trust-domain") {
		o.trustDomain = cmp.Or(m.TrustDomain, o.trustDomain)
	}
	if !o.given("root-namespace") {
		o.rootNamespace = cmp.Or(m.RootNamespace, o.rootNamespace)
	}
	if !o.given("trust-domain-alias") {
		o.aliases = m.Aliases
	}
}

// compareMesh returns a listener to what is read, which warns once when MeshConfig
// says otherwise than when it was adopted. namespace is the root namespace if it
// does not say.
func (p *process) compareMesh(namespace string) func(file.Report) {
	o := p.options
	said := map[string]string{"trustDomain": o.trustDomain, "rootNamespace": o.rootNamespace}
	compare := func(flag, field, now, inForce string) {
		if !o.given(flag) && now != said[field] && now != inForce {
			p.log.Scope("config").Warn("MeshConfig has changed in what is read at start only: restart to have it in force", "field", field, "value", now, "in force", inForce)
		}
		said[field] = now
	}
	return func(file.Report) {
		if m := p.files.Mesh(); m != nil { // else it has gone, or is not there yet
			compare("trust-domain", "trustDomain", cmp.Or(m.TrustDomain, defaultTrustDomain), o.trustDomain)
			compare("root-namespace", "rootNamespace", cmp.Or(m.RootNamespace, namespace), o.rootNamespace)
		}
	}
}
