//go:build netns

package nettest_test

import (
	"encoding/json"

	"github.com/waystone-mesh/waystone/internal/nettest"
)

// lines returns the lines of the access log of a direction.
func lines(m *nettest.Mesh, direction string) (out []map[string]any) {
	for _, text := range m.Log() {
		var l map[string]any
		if json.Unmarshal([]byte(text), &l) == nil && l["scope"] == "access" && l["direction"] == direction {
			out = append(out, l)
		}
	}
	return out
}
