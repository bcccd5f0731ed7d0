package policy

import (
	"github.com/waystone-mesh/waystone/internal/dump"
	"github.com/waystone-mesh/waystone/routing"
)

// addTokens adds what the dump says of tokens and authorizers.
func (m *Mesh) addTokens(*dump.WaypointDump) {}

func fromRoute(r *dump.Route) *routing.Route {
	return &routing.Route{Namespace: r.Namespace, Name: r.Name, Parents: r.Parents, Rules: r.Rules}
}
