//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/e2e/internal/cluster"
)

// The node tunnel captures pods without istio-cni, as deploy/enroll.yaml has it.
func TestEnrollTakesThePlaceOfIstioCNI(t *testing.T) {
	r := start(t)
	const excludePorts, table = "traffic.sidecar.istio.io/excludeOutboundPorts", "table inet waystone-ambient"
	r.withoutCNI()
	before := map[string]string{}
	for _, p := range []cluster.Pod{r.plain, r.plainEcho} {
		before[p.Name] = r.rules(p)
	}
	vip, open := r.vip("plain", "echo", 80), r.vip("plain", "echo", 9000)

	r.finally("-n", "plain", "annotate", "pod/"+r.plain.Name, excludePorts+"-")
	r.kubectl("-n", "plain", "annotate", "pod/"+r.plain.Name, excludePorts+"=9000")
	r.finally("label", "namespace/plain", "istio.io/dataplane-mode-")
	r.kubectl("label", "namespace/plain", "istio.io/dataplane-mode=ambient")
	began := time.Now()
	for _, p := range []cluster.Pod{r.plain, r.plainEcho} {
		r.redirected(p, "enabled")
		if rules := r.rules(p); !strings.Contains(rules, table) {
			t.Errorf("pod %s is said to be captured, and has no %s: %s", p.Name, table, rules)
		}
	}
	t.Logf("two pods captured %s after kubectl label", time.Since(began).Round(time.Millisecond))

	t.Run("HBONE", func(t *testing.T) {
		r.t = t
		id := `identity="spiffe://cluster.local/ns/plain/sa/default"`
		r.eventually("HBONE", 20*time.Second, func() error { // once istiod has seen the annotations
			a, line := r.way(r.plain, vip)
			for _, text := range []string{"dst.addr=" + net.JoinHostPort(r.plainEcho.IP.String(), "15008") + " ", "src." + id, "dst." + id} {
				if a.err != nil || a.status != 200 || !strings.Contains(line, text) {
					return fmt.Errorf("no %s: %s %s", text, a, line)
				}
			}
			return nil
		})
	})
	t.Run("excluded-port", func(t *testing.T) {
		r.t = t
		for _, row := range []struct {
			from     cluster.Pod
			captured bool
		}{{r.plain, false}, {r.plainEcho, true}} {
			began := time.Now()
			conn, err := row.from.DialFresh(r.ctx, open)
			if err != nil {
				t.Fatal(err)
			}
			text := make([]byte, 1)
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := conn.Read(text); err != nil {
				t.Error(err)
			}
			conn.Close()
			line := r.find(row.from.Node, began, time.Second, "src.addr="+conn.LocalAddr().String()+" ", `direction="outbound"`)
			if (line != "") != row.captured {
				t.Errorf("from %s, want captured %v: %q", row.from.Name, row.captured, line)
			}
		}
	})
	t.Run("label-removed", func(t *testing.T) {
		r.t = t
		r.kubectl("label", "namespace/plain", "istio.io/dataplane-mode-")
		for _, p := range []cluster.Pod{r.plain, r.plainEcho} {
			r.redirected(p, "")
			if rules := r.rules(p); rules != before[p.Name] {
				t.Errorf("pod %s is let go, and has\n%s, want\n%s", p.Name, rules, before[p.Name])
			}
		}
		r.eventually("plaintext", 20*time.Second, func() error {
			a := get(r.ctx, r.plain, net.JoinHostPort(r.plainEcho.IP.String(), "8080"))
			if a.err != nil || a.status != 200 || a.source != r.plain.IP.String() {
				return fmt.Errorf("%s", a)
			}
			return nil
		})
	})
	t.Run("unenroll", func(t *testing.T) {
		r.t = t
		r.kubectl("label", "namespace/plain", "istio.io/dataplane-mode=ambient")
		r.redirected(r.plain, "enabled")
		r.redirected(r.plainEcho, "enabled")
		// A node tunnel that ends leaves its rules to the next. Here there is none.
		r.kubectl("-n", "istio-system", "patch", "daemonset", "ztunnel", "-p", `{"spec":{"template":{"spec":{"nodeSelector":{"no":"node"}}}}}`)
		r.kubectl("-n", "istio-system", "wait", "--for=delete", "pods", "-l", "app=ztunnel", "--timeout=60s")
		for _, p := range []cluster.Pod{r.plain, r.plainEcho} {
			if rules := r.rules(p); !strings.Contains(rules, table) {
				t.Errorf("pod %s has no rules any more: %s", p.Name, rules)
			}
		}
		r.unenroll()
		for _, p := range []cluster.Pod{r.plain, r.plainEcho} {
			r.redirected(p, "")
			if rules := r.rules(p); rules != before[p.Name] {
				t.Errorf("pod %s is let go, and has\n%s, want\n%s", p.Name, rules, before[p.Name])
			}
		}
		if a := get(r.ctx, r.plain, net.JoinHostPort(r.plainEcho.IP.String(), "8080")); a.err != nil || a.status != 200 {
			t.Errorf("without a node tunnel: %s", a)
		}
	})
	r.t = t
}

// unenroll runs ztunnel unenroll once on every node, as the node tunnel's pods run.
func (r *rig) unenroll() {
	r.t.Helper()
	const pods = "/api/v1/namespaces/istio-system/pods/"
	var set struct {
		Spec struct {
			Template struct {
				Spec map[string]any `json:"spec"`
			} `json:"template"`
		} `json:"spec"`
	}
	if err := r.Get(r.ctx, "/apis/apps/v1/namespaces/istio-system/daemonsets/ztunnel", &set); err != nil {
		r.t.Fatal(err)
	}
	spec := set.Spec.Template.Spec
	delete(spec, "nodeSelector")
	spec["restartPolicy"] = "Never"
	container := spec["containers"].([]any)[0].(map[string]any)
	container["args"] = []string{"unenroll", "--from", "kubernetes"}
	delete(container, "readinessProbe")
	for _, node := range []string{"n1", "n2"} {
		spec["nodeName"] = node
		manifest, err := json.Marshal(map[string]any{
			"apiVersion": "v1", "kind": "Pod", "spec": spec,
			"metadata": map[string]any{"name": "unenroll-" + node, "namespace": "istio-system"},
		})
		if err != nil {
			r.t.Fatal(err)
		}
		r.apply(string(manifest))
		r.eventually("unenroll on "+node, time.Minute, func() error {
			var pod struct{ Status struct{ Phase string } }
			err := r.Get(r.ctx, pods+"unenroll-"+node, &pod)
			if err == nil && pod.Status.Phase != "Succeeded" {
				err = fmt.Errorf("it is %s", pod.Status.Phase)
			}
			return err
		})
		r.t.Logf("on %s: %s", node, strings.ReplaceAll(r.kubectl("-n", "istio-system", "logs", "unenroll-"+node), "\n", "; "))
	}
}

// rules says what there is in a pod's network namespace that redirects.
func (r *rig) rules(p cluster.Pod) (all string) {
	r.t.Helper()
	for _, command := range []string{"nft list ruleset", "ip rule", "ip route show table all"} {
		out, err := p.Command(r.ctx, strings.Fields(command)...).CombinedOutput()
		if err != nil {
			r.t.Fatalf("%s: %v: %s", command, err, out)
		}
		all += string(out)
	}
	return all
}

// redirected waits until a pod's annotation says whether it is captured.
func (r *rig) redirected(p cluster.Pod, want string) {
	r.t.Helper()
	r.eventually("pod "+p.Name+" redirected: "+want, 30*time.Second, func() error {
		var pod struct {
			Metadata struct{ Annotations map[string]string }
		}
		err := r.Get(r.ctx, "/api/v1/namespaces/"+p.Namespace+"/pods/"+p.Name, &pod)
		if got := pod.Metadata.Annotations["ambient.istio.io/redirection"]; err == nil && got != want {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	})
}

// withoutCNI takes istio-cni away, has the node tunnels capture, and undoes it at the
// test's end.
func (r *rig) withoutCNI() {
	r.t.Helper()
	t, shop := r.t, []cluster.Pod{r.client, r.other, r.v1, r.v2}
	const system = "istio-system"
	var agent map[string]any
	if err := r.Get(r.ctx, "/apis/apps/v1/namespaces/"+system+"/daemonsets/istio-cni-node", &agent); err != nil {
		t.Fatal(err)
	}
	delete(agent, "status")
	about, _ := agent["metadata"].(map[string]any)
	for _, field := range []string{"uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"} {
		delete(about, field)
	}
	revision := r.revision("daemonset/ztunnel")
	manifest, err := json.Marshal(agent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		r.t, r.ctx = t, ctx
		if err := r.Apply(ctx, string(manifest)); err != nil {
			t.Fatal(err)
		}
		// Without istio-cni, whoever waits for its pods does not get ready.
		r.kubectl("-n", system, "rollout", "undo", "daemonset/ztunnel", "--to-revision="+revision)
		for _, what := range []string{"istio-cni-node", "ztunnel"} {
			r.kubectl("-n", system, "rollout", "status", "daemonset/"+what, "--timeout=90s")
		}
		r.kubectl("delete", "-f", "../deploy/enroll.yaml")
		r.kubectl("label", "--overwrite", "namespace/shop", "istio.io/dataplane-mode=ambient")
		for _, p := range shop {
			r.redirected(p, "enabled")
		}
	})
	r.kubectl("label", "namespace/shop", "istio.io/dataplane-mode-") // it lets go of its pods
	for _, p := range shop {
		r.redirected(p, "")
	}
	r.kubectl("-n", system, "delete", "daemonset/istio-cni-node")
	r.kubectl("apply", "-f", "../deploy/enroll.yaml")
	r.kubectl("-n", system, "patch", "daemonset", "ztunnel", "--patch-file", "../deploy/enroll-daemonset.yaml")
	r.kubectl("-n", system, "rollout", "status", "daemonset/ztunnel", "--timeout=90s")
}

// revision returns the number of what is rolled out.
func (r *rig) revision(what string) string {
	r.t.Helper()
	words := strings.Fields(r.kubectl("-n", "istio-system", "rollout", "history", what)) // ... NUMBER CHANGE-CAUSE
	number := words[len(words)-2]
	if _, err := strconv.Atoi(number); err != nil {
		r.t.Fatalf("no revision of %s in %q", what, words)
	}
	return number
}
