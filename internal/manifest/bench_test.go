package manifest

import (
	"fmt"
	"testing"
)

// BenchmarkPodChange changes one of 10,000 pods of 1,000 services: what an
// update costs in the Index, without decoding.
func BenchmarkPodChange(b *testing.B) {
	x := NewIndex(Options{ByLabel: true})
	var changes []Change
	add := func(text string) *Object {
		o := Decode("b.yaml", []byte(text)).Objects[0]
		changes = append(changes, Change{o.Key, o})
		return o
	}
	pod := func(i int, ready string) string {
		return fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: p%d, namespace: ns%d, labels: {app: a%d}}, spec: {containers: []}, status: {podIP: 10.%d.%d.1, conditions: [{type: Ready, status: %q}]}}", i, i%10, i%1000, i/250, i%250, ready)
	}
	for i := range 1000 {
		add(fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {name: s%d, namespace: ns%d}, spec: {selector: {app: a%d}, ports: [{name: http, port: 80}]}}", i, i%10, i))
	}
	for i := range 10000 {
		add(pod(i, "True"))
	}
	x.Apply(changes...)
	versions := []*Object{add(pod(5, "False")), add(pod(5, "True"))}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if got := len(x.Set(versions[i%2])); got != 1 {
			b.Fatalf("%d updates, want 1", got)
		}
	}
}
