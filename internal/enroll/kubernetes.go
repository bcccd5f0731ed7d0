package enroll

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/waystone-mesh/waystone/internal/kube"
)

// Labels and annotations of Istio's, as its CNI agent reads them.
const (
	labelDataplane        = "istio.io/dataplane-mode"
	annotationRedirection = "ambient.istio.io/redirection"
	annotationSidecar     = "sidecar.istio.io/status"
)

// Kubernetes tells an Enroller of a node's pods.
type Kubernetes struct {
	Client *kube.Client
	Node   string
	Log    *slog.Logger
}

// Run tells e until ctx is done.
func (k Kubernetes) Run(ctx context.Context, e *Enroller) {
	j := &join{to: e, pods: map[string]kube.Pod{}, modes: map[string]string{}}
	var watching sync.WaitGroup
	watching.Go(func() {
		kube.Follow(ctx, k.Client, kube.Namespaces(), kube.Follower[kube.Namespace]{Replace: j.replaceNamespaces, Set: j.setNamespace, Delete: j.deleteNamespace})
	})
	watching.Go(func() {
		kube.Follow(ctx, k.Client, kube.PodsOf(k.Node), kube.Follower[kube.Pod]{Replace: j.replacePods, Set: j.setPod, Delete: j.deletePod})
	})
	watching.Wait()
}

// Mark is for Options.Mark. A pod that is gone, or another of its name, needs no
// annotation.
func (k Kubernetes) Mark(ctx context.Context, p Pod, value string) error {
	v := &value
	if value == "" {
		v = nil
	}
	err := k.Client.Annotate(ctx, p.Namespace, p.Name, p.UID, map[string]*string{annotationRedirection: v})
	if kube.IsGone(err) {
		return nil
	}
	return err
}

// A join knows the pods of a node and how every namespace is labelled.
type join struct {
	to *Enroller

	mu    sync.Mutex
	pods  map[string]kube.Pod // Guarded by mu: by UID.
	modes map[string]string   // Guarded by mu: by namespace; "" if there is no label.
	heard [2]bool             // Guarded by mu: of all pods, of all namespaces.
}

func (j *join) replacePods(all []kube.Pod) {
	j.mu.Lock()
	defer j.mu.Unlock()
	old := j.pods
	j.pods = make(map[string]kube.Pod, len(all))
	for _, p := range all {
		j.pods[p.Metadata.UID] = slim(p)
		delete(old, p.Metadata.UID)
	}
	for uid := range old {
		j.to.Delete(uid)
	}
	j.heard[0] = true
	j.tellAllLocked()
}

func (j *join) setPod(p kube.Pod) {
	j.mu.Lock()
	defer j.mu.Unlock()
	p = slim(p)
	j.pods[p.Metadata.UID] = p
	j.tellLocked(p)
}

func (j *join) deletePod(p kube.Pod) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.pods, p.Metadata.UID)
	j.to.Delete(p.Metadata.UID)
}

func (j *join) replaceNamespaces(all []kube.Namespace) {
	j.mu.Lock()
	defer j.mu.Unlock()
	clear(j.modes)
	for _, n := range all {
		j.modes[n.Metadata.Name] = n.Metadata.Labels[labelDataplane]
	}
	j.heard[1] = true
	j.tellAllLocked()
}

func (j *join) setNamespace(n kube.Namespace) {
	j.mu.Lock()
	defer j.mu.Unlock()
	mode, ok := j.modes[n.Metadata.Name]
	j.modes[n.Metadata.Name] = n.Metadata.Labels[labelDataplane]
	if ok && mode == n.Metadata.Labels[labelDataplane] {
		return
	}
	for _, p := range j.pods {
		if p.Metadata.Namespace == n.Metadata.Name {
			j.tellLocked(p)
		}
	}
}

// deleteNamespace forgets a namespace. Its pods went before it.
func (j *join) deleteNamespace(n kube.Namespace) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.modes, n.Metadata.Name)
}

// tellLocked tells of a pod, once both are known, all pods and all namespaces:
// a pod must not be released because of what was not heard yet.
func (j *join) tellLocked(p kube.Pod) {
	mode, known := j.modes[p.Metadata.Namespace]
	if j.heard == [2]bool{true, true} && known {
		j.to.Set(podFrom(p, mode))
	}
}

func (j *join) tellAllLocked() {
	if j.heard != [2]bool{true, true} {
		return
	}
	for _, p := range j.pods {
		j.tellLocked(p)
	}
	j.to.Synced()
}

// slim keeps of a pod what podFrom reads: annotations may be long.
func slim(p kube.Pod) kube.Pod {
	p.Metadata.Labels = map[string]string{labelDataplane: p.Metadata.Labels[labelDataplane]}
	p.Metadata.Annotations = maps.Clone(p.Metadata.Annotations)
	maps.DeleteFunc(p.Metadata.Annotations, func(k, _ string) bool { return !strings.Contains(k, "istio.io/") })
	if _, ok := p.Metadata.Annotations[annotationSidecar]; ok {
		p.Metadata.Annotations[annotationSidecar] = "" // a document of its own
	}
	return p
}

// podFrom reads a pod in a namespace that is labelled with mode.
func podFrom(p kube.Pod, mode string) Pod {
	n := Pod{
		UID: p.Metadata.UID, Name: p.Metadata.Name, Namespace: p.Metadata.Namespace,
		ServiceAccount: cmp.Or(p.Spec.ServiceAccountName, "default"),
		Annotations:    p.Metadata.Annotations,
		Marked:         p.Metadata.Annotations[annotationRedirection],
		Wanted:         eligible(p, mode),
	}
	for _, s := range append([]string{p.Status.PodIP}, ips(p)...) {
		if a, err := netip.ParseAddr(s); err == nil && !slices.Contains(n.Addresses, a) {
			n.Addresses = append(n.Addresses, a)
		}
	}
	for _, c := range p.Status.ContainerStatuses {
		if _, id, ok := strings.Cut(c.ContainerID, "://"); ok {
			n.Containers = append(n.Containers, id)
		}
	}
	return n
}

func ips(p kube.Pod) (all []string) {
	for _, a := range p.Status.PodIPs {
		all = append(all, a.IP)
	}
	return all
}

// eligible follows the default of enablementSelectors of Istio's CNI agent: the
// pod's label counts, and where it has none, its namespace's. A pod that has a
// sidecar, that shares the node's network or that has ended is never captured.
func eligible(p kube.Pod, mode string) bool {
	if _, sidecar := p.Metadata.Annotations[annotationSidecar]; sidecar || p.Spec.HostNetwork {
		return false
	}
	if p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" {
		return false
	}
	label := p.Metadata.Labels[labelDataplane]
	return label == "ambient" || mode == "ambient" && label != "none"
}
