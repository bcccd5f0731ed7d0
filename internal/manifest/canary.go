package manifest

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// canaryOf returns how a service's connections are shared between its waypoint and
// a second one, in hundredths, or nil if there is no second one that serves it:
// then its waypoint has them all (istio.workload.Service.weighted_waypoints).
//
// A service that names its waypoint itself names the canary, too; else what it
// does not say its namespace may.
func (x *Index) canaryOf(s *corev1.Service, first *waypoint) []mesh.WeightedWaypoint {
	if first.address() == nil {
		return nil
	}
	levels := []metav1.ObjectMeta{s.ObjectMeta}
	if n := x.namespace(s.Namespace).object; n != nil && s.Labels[labelUseWaypoint] == "" {
		levels = append(levels, n.ObjectMeta)
	}
	for i := range levels {
		if _, says := levels[i].Labels[labelCanary]; !says {
			continue
		}
		ref, ok := canaryRef(levels[i].Labels, s.Namespace)
		if !ok {
			return nil
		}
		second := x.usable(ref, attachment{namespace: s.Namespace})
		if second == first || second.address() == nil {
			return nil
		}
		share, _ := canaryShare(levels...)
		return []mesh.WeightedWaypoint{
			{Waypoint: *first.address(), Weight: 100 - share},
			{Waypoint: *second.address(), Weight: share},
		}
	}
	return nil
}

// canaryRef reads istio.io/use-waypoint-canary. "none" is none.
func canaryRef(labels map[string]string, namespace string) (ref mesh.Key, ok bool) {
	ref, ok = gatewayRef(labels[labelCanary], labels[labelCanaryNS], namespace)
	return ref, ok && ref.Name != ""
}

// canaryShare reads the first istio.io/use-waypoint-canary-weight of the objects.
func canaryShare(levels ...metav1.ObjectMeta) (percent uint32, f *fault) {
	for _, m := range levels {
		text, ok := m.Annotations[annotationCanaryWeight]
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil || n > 100 {
			return 0, faultf("metadata.annotations["+strconv.Quote(annotationCanaryWeight)+"]", "%q is not a number from 0 to 100", text)
		}
		return uint32(n), nil
	}
	return 0, nil
}
