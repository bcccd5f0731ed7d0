package policy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// nodes asks the node tunnels before the pods that the request can come to. Those
// that answer alike are one Step.
func (j *journey) nodes(pods []mesh.Endpoint, through bool) {
	if n := len(j.out.Steps); n > 0 && !j.out.Steps[n-1].Allowed {
		return // it does not come so far
	}
	peer, source := j.peer, j.source
	if through {
		id, w, assumed := j.identityOf(j.d.gateway)
		j.d.assume("%s", assumed)
		peer, source = id, netip.Addr{}
		if w != nil && len(w.Addresses) > 0 {
			source = w.Addresses[0]
		}
	}
	if len(pods) == 0 {
		j.add(Step{At: atNode, Where: "none", Allowed: true, Skipped: "there is no pod behind " + j.d.name})
		return
	}
	v := j.view(node, j.d.more...)
	var steps []Step
	for i := range pods {
		w := pods[i].Workload
		s := j.pod(v, &pods[i], peer, source)
		name := w.Namespace + "/" + w.Name
		if same := slices.IndexFunc(steps, func(t Step) bool { return t.alike(&s) }); same >= 0 {
			if !slices.Contains(steps[same].Pods, name) {
				steps[same].Pods = append(steps[same].Pods, name)
			}
			continue
		}
		s.Pods = []string{name}
		steps = append(steps, s)
	}
	for _, s := range steps {
		s.Where = "pod " + s.Pods[0]
		if n := len(s.Pods); n > 1 {
			s.Where = fmt.Sprintf("%d pods", n)
		}
		j.add(s)
	}
}

// pod asks the node tunnel before one pod.
func (j *journey) pod(v *view, e *mesh.Endpoint, peer identity.ID, source netip.Addr) Step {
	w := e.Workload
	s := Step{At: atNode, Allowed: true, Client: peer.Principal()}
	j.d.assume("%s", j.note("Namespace", "", w.Namespace))
	if w.Tunnel != mesh.HBONE {
		s.Skipped = "the pod is not in the mesh, so no node tunnel is before it"
		return s
	}
	d := v.Destination(w.UID)
	if d == nil {
		s.Skipped = "the pod is not there"
		return s
	}
	dest := e.Addr
	if dest.Port() == 0 {
		dest = netip.AddrPortFrom(dest.Addr(), j.d.authority.Port)
	}
	s.judge(d.Policies, &authz.Input{Peer: peer, Source: source, Dest: dest})
	return s
}

// alike reports whether the same is to be said of two pods.
func (s *Step) alike(t *Step) bool {
	if s.Allowed != t.Allowed || s.Skipped != t.Skipped {
		return false
	}
	return s.Explanation == t.Explanation || s.Explanation != nil && t.Explanation != nil && s.Explanation.String() == t.Explanation.String()
}
