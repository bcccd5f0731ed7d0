package manifest

import (
	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// The labels and annotations that mean something here, as Istio and Kubernetes
// spell them.
const (
	labelDataplane         = "istio.io/dataplane-mode"
	labelUseWaypoint       = "istio.io/use-waypoint"
	labelUseWaypointNS     = "istio.io/use-waypoint-namespace"
	labelCanary            = "istio.io/use-waypoint-canary"
	labelCanaryNS          = "istio.io/use-waypoint-canary-namespace"
	labelWaypointFor       = "istio.io/waypoint-for"
	labelManaged           = "gateway.istio.io/managed"
	labelGatewayName       = "gateway.networking.k8s.io/gateway-name"
	labelOldGatewayName    = "istio.io/gateway-name" // ambient's first releases
	labelTunnel            = "networking.istio.io/tunnel"
	labelNetwork           = "topology.istio.io/network"
	labelSubzone           = "topology.istio.io/subzone"
	labelServiceName       = "kubernetes.io/service-name"
	labelPodTemplateHash   = "pod-template-hash"
	labelCanonicalName     = "service.istio.io/canonical-name"
	labelCanonicalRevision = "service.istio.io/canonical-revision"
	labelWorkloadName      = "service.istio.io/workload-name"

	annotationRedirection  = "ambient.istio.io/redirection"
	annotationSidecar      = "sidecar.istio.io/status"
	annotationCanaryWeight = "istio.io/use-waypoint-canary-weight"
	annotationAccount      = "istio.io/for-service-account"
	annotationDistribution = "networking.istio.io/traffic-distribution"
	annotationDryRun       = "istio.io/dry-run"
	annotationReplaces     = "waystone.dev/replaces" // ours: of a policy under dry run, the one it is a candidate for
	annotationBinding      = "ambient.istio.io/waypoint-inbound-binding"
)

// managedByMesh is what Istio's controller writes into labelManaged of the
// workloads and services of its waypoints.
const managedByMesh = "istio.io-mesh-controller"

// Protocols of a waypoint's listener: today's, and that of the first releases.
const (
	listenerHBONE gatewayv1.ProtocolType = "HBONE"
	listenerAll   gatewayv1.ProtocolType = "ALL"
)

// firstLabel returns the first label of names that is there and not empty.
func firstLabel(labels map[string]string, names ...string) string {
	for _, n := range names {
		if v := labels[n]; v != "" {
			return v
		}
	}
	return ""
}

// selects reports whether a selector, which must not be empty, selects labels.
func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if w, ok := labels[k]; !ok || w != v {
			return false
		}
	}
	return len(selector) > 0
}

// clusterIPs returns a service's addresses. The plural field contains the
// singular one where an API server has filled it in; a file may have only one.
func clusterIPs(s *corev1.Service) []string {
	if len(s.Spec.ClusterIPs) > 0 {
		return s.Spec.ClusterIPs
	}
	if s.Spec.ClusterIP != "" {
		return []string{s.Spec.ClusterIP}
	}
	return nil
}
