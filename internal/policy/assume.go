package policy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/waystone-mesh/waystone/internal/manifest"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A draft is an object as it is written, whatever its kind.
type draft struct {
	key  mesh.Key
	file string
	node *yaml.Node // where it is written; nil: nowhere
	doc  map[string]any
}

// drafts reads the objects of a file as far as it can: what is wrong is
// somebody else's to say.
func drafts(name string, data []byte) (out []draft) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var n yaml.Node
		if d.Decode(&n) != nil || len(n.Content) == 0 {
			return out
		}
		out = appendDraft(out, name, n.Content[0])
	}
}

func appendDraft(out []draft, name string, n *yaml.Node) []draft {
	var doc map[string]any
	if n.Decode(&doc) != nil {
		return out
	}
	kind := text(doc, "kind")
	if _, ok := doc["items"].([]any); ok && kind == "List" {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == "items" {
				for _, item := range n.Content[i+1].Content {
					out = appendDraft(out, name, item)
				}
			}
		}
		return out
	}
	meta := object(doc, "metadata")
	d := draft{key: mesh.Key{Kind: kind, Namespace: text(meta, "namespace"), Name: text(meta, "name")}, file: name, node: n, doc: doc}
	if d.key.Name == "" || kind == "" {
		return out
	}
	if d.key.Namespace == "" && kind != "Namespace" {
		d.key.Namespace = "default"
	}
	return append(out, d)
}

// object returns the object that path leads to, or nil.
func object(doc map[string]any, path ...string) map[string]any {
	for _, name := range path {
		doc, _ = doc[name].(map[string]any)
	}
	return doc
}

func text(doc map[string]any, name string) string {
	s, _ := doc[name].(string)
	return s
}

// labels returns labels as written, which should be strings.
func labels(doc map[string]any) map[string]string {
	out := map[string]string{}
	for k, v := range doc {
		out[k] = fmt.Sprint(v)
	}
	return out
}

// templates says where objects that make pods have the pod.
var templates = map[string][]string{
	"Deployment":  {"spec", "template"},
	"StatefulSet": {"spec", "template"},
	"DaemonSet":   {"spec", "template"},
	"ReplicaSet":  {"spec", "template"},
	"Job":         {"spec", "template"},
	"CronJob":     {"spec", "jobTemplate", "spec", "template"},
}

// The addresses that are assumed, of services and of pods: from the block that is
// reserved (RFC 1112, section 4), where nobody has one.
var (
	assumedServices = netip.MustParseAddr("240.0.0.0")
	assumedPods     = netip.MustParseAddr("240.1.0.0")
)

// An assumer completes manifests that were never in a cluster.
type assumer struct {
	*Manifests
	services, pods netip.Addr
	notes          map[mesh.Key]string
	out            []*manifest.Object // instead of, or besides, those of Manifests
	pod            []draft            // all pods
}

// assume returns the objects with what a cluster would add, and says of which
// object what was assumed.
func (m *Manifests) assume() (objects []*manifest.Object, pods []draft, notes map[mesh.Key]string) {
	a := &assumer{Manifests: m, services: assumedServices, pods: assumedPods, notes: map[mesh.Key]string{}}
	drafts := slices.Clone(m.drafts)
	slices.SortStableFunc(drafts, func(a, b draft) int {
		return cmp.Or(cmp.Compare(a.key.Kind, b.key.Kind), cmp.Compare(a.key.Namespace, b.key.Namespace), cmp.Compare(a.key.Name, b.key.Name))
	})
	for _, d := range drafts {
		if d.key.Kind == "Pod" {
			a.addPod(d)
		}
	}
	for _, d := range drafts {
		switch {
		case templates[d.key.Kind] != nil:
			a.template(d)
		case d.key.Kind == "Service":
			a.service(d)
		case d.key.Kind == "Gateway":
			a.gateway(d)
		}
	}
	a.namespaces()
	done := map[mesh.Key]bool{}
	for _, o := range a.out {
		done[o.Key] = true
	}
	for _, o := range m.objects {
		if !done[o.Key] {
			a.out = append(a.out, o)
		}
	}
	return a.out, a.pod, a.notes
}

// put takes an object of ours in the place of what is written, if it is good.
func (a *assumer) put(d draft, note string) bool {
	raw, err := json.Marshal(d.doc)
	if err != nil {
		return false
	}
	f := manifest.Decode(d.file, raw)
	if len(f.Objects) != 1 || f.Objects[0].Err != nil {
		return false
	}
	o := f.Objects[0]
	o.File, o.Line = a.place(d.key, "")
	a.out, a.notes[d.key] = append(a.out, o), note
	return true
}

func (a *assumer) addPod(d draft) {
	a.pod = append(a.pod, d)
	if text(object(d.doc, "status"), "podIP") == "" {
		a.running(d, "pod %s runs, at %s: it has no status")
	}
}

// running has a pod run.
func (a *assumer) running(d draft, note string) {
	a.pods = a.pods.Next()
	doc := maps.Clone(d.doc)
	doc["status"] = map[string]any{"phase": "Running", "podIP": a.pods.String(),
		"conditions": []any{map[string]any{"type": "Ready", "status": "True"}}}
	a.put(draft{key: d.key, file: d.file, doc: doc}, fmt.Sprintf(note, d.key.Namespace+"/"+d.key.Name, a.pods))
}

// template has a pod run of an object that makes pods, unless there is one.
func (a *assumer) template(d draft) {
	t := object(d.doc, templates[d.key.Kind]...)
	meta := object(t, "metadata")
	want := labels(object(meta, "labels"))
	if t == nil || slices.ContainsFunc(a.pod, func(p draft) bool {
		return p.key.Namespace == d.key.Namespace && selected(want, labels(object(p.doc, "metadata", "labels")))
	}) {
		return
	}
	pod := map[string]any{"apiVersion": "v1", "kind": "Pod", "spec": t["spec"],
		"metadata": map[string]any{"name": d.key.Name, "namespace": d.key.Namespace, "labels": meta["labels"], "annotations": meta["annotations"]}}
	p := draft{key: mesh.Key{Kind: "Pod", Namespace: d.key.Namespace, Name: d.key.Name}, file: d.file, doc: pod}
	a.pod = append(a.pod, p)
	a.running(p, "pod %s runs, at %s, of the "+d.key.Kind+" of that name")
}

func selected(selector, have map[string]string) bool {
	for k, v := range selector {
		if have[k] != v {
			return false
		}
	}
	return len(selector) > 0
}

// service gives an address to a Service that asks for none.
func (a *assumer) service(d draft) {
	spec := object(d.doc, "spec")
	if _, plural := spec["clusterIPs"]; plural || text(spec, "clusterIP") != "" || text(spec, "type") == "ExternalName" {
		return
	}
	a.services = a.services.Next()
	doc, with := maps.Clone(d.doc), maps.Clone(spec)
	if with == nil {
		return
	}
	with["clusterIP"], doc["spec"] = a.services.String(), with
	a.put(draft{key: d.key, file: d.file, doc: doc}, fmt.Sprintf("Service %s/%s has the address %s: it has none yet", d.key.Namespace, d.key.Name, a.services))
}

// gateway gives an address to a Gateway, and if it is a waypoint a pod.
func (a *assumer) gateway(d draft) {
	spec := object(d.doc, "spec")
	name := d.key.Namespace + "/" + d.key.Name
	var address string
	_, has := object(d.doc, "status")["addresses"]
	_, wants := spec["addresses"]
	if spec != nil && !has && !wants {
		a.pods = a.pods.Next()
		address = a.pods.String()
		doc, with := maps.Clone(d.doc), maps.Clone(spec)
		with["addresses"] = []any{map[string]any{"type": "IPAddress", "value": address}}
		doc["spec"] = with
		if !a.put(draft{key: d.key, file: d.file, doc: doc}, fmt.Sprintf("the waypoint %s is there, at %s: it has no address yet", name, address)) {
			return
		}
	}
	if !isWaypoint(spec) || slices.ContainsFunc(a.pod, func(p draft) bool {
		l := object(p.doc, "metadata", "labels")
		return p.key.Namespace == d.key.Namespace && (l["gateway.networking.k8s.io/gateway-name"] == d.key.Name || l["istio.io/gateway-name"] == d.key.Name)
	}) {
		return
	}
	if address == "" {
		a.pods = a.pods.Next()
		address = a.pods.String()
	}
	pod := draft{key: mesh.Key{Kind: "Pod", Namespace: d.key.Namespace, Name: d.key.Name + "-assumed"}, file: d.file, doc: map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{"name": d.key.Name + "-assumed", "namespace": d.key.Namespace,
			"labels": map[string]any{"gateway.networking.k8s.io/gateway-name": d.key.Name, "istio.io/dataplane-mode": "none"}},
		"spec": map[string]any{"serviceAccountName": d.key.Name, "containers": []any{map[string]any{"name": "waypoint"}}},
		"status": map[string]any{"phase": "Running", "podIP": address,
			"conditions": []any{map[string]any{"type": "Ready", "status": "True"}}}}}
	a.pod = append(a.pod, pod)
	a.put(pod, fmt.Sprintf("the waypoint %s runs as the service account %s/%s, as Istio has it: there is no pod of it", name, d.key.Namespace, d.key.Name))
}

// isWaypoint reports whether a Gateway is one by its listeners.
func isWaypoint(spec map[string]any) bool {
	listeners, _ := spec["listeners"].([]any)
	return slices.ContainsFunc(listeners, func(l any) bool {
		m, _ := l.(map[string]any)
		return m["protocol"] == "HBONE" || m["protocol"] == "ALL"
	})
}

// namespaces takes those into the mesh that have pods and no object to say.
func (a *assumer) namespaces() {
	there := map[string]bool{}
	for _, d := range a.drafts {
		if d.key.Kind == "Namespace" {
			there[d.key.Name] = true
		}
	}
	for _, p := range a.pod {
		ns := p.key.Namespace
		if there[ns] {
			continue
		}
		there[ns] = true
		a.put(draft{key: mesh.Key{Kind: "Namespace", Name: ns}, file: p.file, doc: map[string]any{"apiVersion": "v1", "kind": "Namespace",
			"metadata": map[string]any{"name": ns, "labels": map[string]any{"istio.io/dataplane-mode": "ambient"}}}},
			"the namespace "+ns+" is in the mesh: there is no Namespace to say")
	}
}

// note returns what was assumed about an object, if anything.
func (m *Mesh) note(kind, namespace, name string) string {
	return strings.TrimSpace(m.notes[mesh.Key{Kind: kind, Namespace: namespace, Name: name}])
}
