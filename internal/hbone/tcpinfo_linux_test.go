package hbone

import (
	"testing"

	"github.com/waystone-mesh/waystone/internal/loop"
)

// TestTunnelKnowsItsConnection asks the kernel of both ends.
func TestTunnelKnowsItsConnection(t *testing.T) {
	overTCP(t, rigOptions{}, func(r *rig) {
		e := r.open("open")
		there := r.end(1)
		for name, e := range map[string]*end{"client": e, "server": there} {
			var i loop.TCPInfo
			var known bool
			on(e.tun.Loop(), func() { i, known = e.tun.TCPInfo() })
			if !known || i.RTT <= 0 {
				t.Errorf("%s: %+v, %t", name, i, known)
			}
		}
	})
}
