package config

import (
	"iter"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// Named iterates over the services of a host name, whoever may see them, in
// order of preference: canonical, then by namespace. A name that begins with a
// dot is that of wildcards: ".example.com" gives the services that are called
// "*.example.com". With each come the destinations of its ports, which are not
// the caller's to change.
//
// Lookup is for who connects; Named, for who has to choose by more than a
// client's namespace: a name in DNS is not that of every service.
func (s *Snapshot) Named(host string) iter.Seq2[*mesh.Service, []*Destination] {
	return func(yield func(*mesh.Service, []*Destination) bool) {
		for _, v := range s.hosts.get(host) {
			if !yield(v.service, v.ports) {
				return
			}
		}
	}
}
