package manifest

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// podUID returns the UID of a pod's workload, as Istio forms it.
func (o *Options) podUID(namespace, name string) string {
	return o.ClusterID + "//Pod/" + namespace + "/" + name
}

// buildWorkload turns a Pod into a workload, as far as it can be told from the
// Pod alone. It returns nil for one that has no address or has come to its end.
func (o *Options) buildWorkload(p *corev1.Pod) *mesh.Workload {
	addresses := podAddresses(p)
	if len(addresses) == 0 || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil
	}
	w := &mesh.Workload{
		UID:            o.podUID(p.Namespace, p.Name),
		Name:           p.Name,
		Namespace:      p.Namespace,
		ServiceAccount: accountOf(p),
		TrustDomain:    o.TrustDomain,
		ClusterID:      o.ClusterID,
		Network:        o.Network,
		Node:           p.Spec.NodeName,
		Addresses:      addresses,
		HostNetwork:    p.Spec.HostNetwork,
		Unhealthy:      !ready(p),
		Resolv:         o.resolv(p),
	}
	if n := p.Labels[labelNetwork]; n != "" {
		w.Network = n
	}
	if p.Labels[labelTunnel] == "http" {
		w.Tunnel, w.NativeTunnel = mesh.HBONE, true
	}
	w.OwnerKind, w.OwnerName = owner(p)
	w.CanonicalName = firstLabel(p.Labels, labelCanonicalName, "app.kubernetes.io/name", "app")
	if w.CanonicalName == "" {
		w.CanonicalName = w.OwnerName
	}
	w.CanonicalRevision = firstLabel(p.Labels, labelCanonicalRevision, "app.kubernetes.io/version", "version")
	if w.CanonicalRevision == "" {
		w.CanonicalRevision = "latest"
	}
	return w
}

func podAddresses(p *corev1.Pod) []netip.Addr {
	var out []netip.Addr
	add := func(text string) {
		if ip, err := netip.ParseAddr(text); err == nil && !slices.Contains(out, ip.Unmap()) {
			out = append(out, ip.Unmap())
		}
	}
	add(p.Status.PodIP)
	for _, ip := range p.Status.PodIPs {
		add(ip.IP)
	}
	return out
}

func accountOf(p *corev1.Pod) string {
	if p.Spec.ServiceAccountName == "" {
		return "default"
	}
	return p.Spec.ServiceAccountName
}

// ready reports whether a pod takes traffic: its Ready condition is true and it
// is not being deleted.
func ready(p *corev1.Pod) bool {
	if p.DeletionTimestamp != nil {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// captured reports whether a pod's traffic is redirected to the node tunnel.
func (o *Options) captured(p *corev1.Pod, namespaceLabels map[string]string) bool {
	switch {
	case p.Spec.HostNetwork:
		return false
	case p.Annotations[annotationRedirection] == "enabled":
		return true
	case !o.ByLabel || p.Annotations[annotationSidecar] != "":
		return false
	}
	mode, ok := p.Labels[labelDataplane]
	if !ok {
		mode = namespaceLabels[labelDataplane]
	}
	return mode == "ambient"
}

// owner returns the kind and name of what a pod is a part of: its Deployment
// rather than the ReplicaSet, its CronJob rather than the Job.
func owner(p *corev1.Pod) (kind, name string) {
	kind, name = "pod", p.Name
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		switch ref.Kind {
		case "ReplicaSet":
			kind, name = "replicaset", ref.Name
			if n, ok := strings.CutSuffix(ref.Name, "-"+p.Labels[labelPodTemplateHash]); ok && p.Labels[labelPodTemplateHash] != "" {
				kind, name = "deployment", n
			}
		case "Job":
			kind, name = "job", ref.Name
			if n, ok := cronJob(ref.Name); ok {
				kind, name = "cronjob", n
			}
		default:
			kind, name = strings.ToLower(ref.Kind), ref.Name
		}
	}
	// Istio's workload API knows no other kinds: what is left is a pod by name
	// of its controller.
	switch kind {
	case "deployment", "job", "cronjob":
	default:
		kind = "pod"
	}
	if n := p.Labels[labelWorkloadName]; n != "" {
		name = n
	}
	return kind, name
}

// cronJob recognises the name that a CronJob gives its Jobs: the scheduled time
// in minutes since 1970.
func cronJob(job string) (string, bool) {
	i := strings.LastIndexByte(job, '-')
	if i < 0 {
		return "", false
	}
	minutes := job[i+1:]
	if len(minutes) != 8 && len(minutes) != 10 {
		return "", false
	}
	_, err := strconv.ParseUint(minutes, 10, 64)
	return job[:i], err == nil
}

// locality reads where a node stands.
func locality(n *corev1.Node) mesh.Locality {
	if n == nil {
		return mesh.Locality{}
	}
	return mesh.Locality{
		Region:  firstLabel(n.Labels, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaRegion),
		Zone:    firstLabel(n.Labels, corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaZone),
		Subzone: n.Labels[labelSubzone],
	}
}

// membership returns a pod's part in a service that selects it: where it
// listens, for ports that the service gives by name.
func membership(s *corev1.Service, p *corev1.Pod) mesh.Membership {
	var m mesh.Membership
	for _, port := range s.Spec.Ports {
		if port.TargetPort.Type != intstr.String || port.TargetPort.StrVal == "" || port.Protocol == corev1.ProtocolUDP {
			continue
		}
		if n := containerPort(p, port.TargetPort.StrVal); n != 0 {
			if m.Ports == nil {
				m.Ports = map[uint16]uint16{}
			}
			m.Ports[uint16(port.Port)] = n
		}
	}
	return m
}

func containerPort(p *corev1.Pod, name string) uint16 {
	for _, containers := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for _, c := range containers {
			for _, port := range c.Ports {
				if port.Name == name && (port.Protocol == "" || port.Protocol == corev1.ProtocolTCP) {
					return uint16(port.ContainerPort)
				}
			}
		}
	}
	return 0
}

// buildEndpoints turns the endpoints of a slice that are no pods into workloads
// that belong to its service. They have no identity: they are not in the mesh.
func (o *Options) buildEndpoints(s *discoveryv1.EndpointSlice, svc *corev1.Service) []*mesh.Workload {
	ports := map[uint16]uint16{}
	for _, p := range svc.Spec.Ports {
		for _, e := range s.Ports {
			if e.Port != nil && (e.Name == nil && p.Name == "" || e.Name != nil && *e.Name == p.Name) {
				ports[uint16(p.Port)] = uint16(*e.Port)
			}
		}
	}
	host := o.hostname(svc.Namespace, svc.Name)
	var out []*mesh.Workload
	for _, e := range s.Endpoints {
		if e.TargetRef != nil && e.TargetRef.Kind == kindPod {
			continue // the Pod itself says more
		}
		ip, err := netip.ParseAddr(e.Addresses[0]) // the others mean nothing (EndpointSlice API)
		if err != nil {
			continue
		}
		w := &mesh.Workload{
			UID:               o.ClusterID + "/discovery.k8s.io/EndpointSlice/" + s.Namespace + "/" + s.Name + "/" + ip.String(),
			Name:              s.Name,
			Namespace:         s.Namespace,
			TrustDomain:       o.TrustDomain,
			ClusterID:         o.ClusterID,
			Network:           o.Network,
			Addresses:         []netip.Addr{ip.Unmap()},
			CanonicalName:     svc.Name,
			CanonicalRevision: "latest",
			OwnerKind:         "pod",
			OwnerName:         s.Name,
			Unhealthy:         e.Conditions.Ready != nil && !*e.Conditions.Ready,
			Services:          map[mesh.Hostname]mesh.Membership{host: {Ports: ports}},
		}
		if e.NodeName != nil {
			w.Node = *e.NodeName
		}
		out = append(out, w)
	}
	return out
}
