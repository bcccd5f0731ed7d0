package enroll

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/waystone-mesh/waystone/internal/capture"
	"github.com/waystone-mesh/waystone/internal/kube"
	"github.com/waystone-mesh/waystone/internal/kube/kubetest"
	"github.com/waystone-mesh/waystone/internal/netns"
	"github.com/waystone-mesh/waystone/internal/zds"
)

// A rig is an Enroller fed by an API server, whose pods have the test's own
// network namespace, and whose rules are words in a list.
type rig struct {
	*kubetest.Server
	t    *testing.T
	e    *Enroller
	stop context.CancelFunc
	done sync.WaitGroup

	mu    sync.Mutex
	did   []string
	fail  map[string]error // by what it did
	here  Place
	all   []Place
	rules bool // there are some, of an earlier process
	last  capture.Options
}

func (r *rig) do(format string, args ...any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	what := fmt.Sprintf(format, args...)
	r.did = append(r.did, what)
	return r.fail[what]
}

func (r *rig) failing(what string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fail[what]
}

// failsAt has what it does fail, and nothing else.
func (r *rig) failsAt(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = map[string]error{what: errors.New("the test has it fail")}
}

// Add, Keep, Remove and Synced make it the node tunnel.
func (r *rig) Add(p zds.Pod) error {
	err := r.do("serve %s %s/%s %s", p.UID, p.Namespace, p.Name, p.ServiceAccount)
	return errors.Join(err, p.Netns.Close())
}
func (r *rig) Keep(string)       {}
func (r *rig) Remove(uid string) { r.do("end %s", uid) }
func (r *rig) Synced()           { r.do("synced") }

// A node is the rig as the node's rules.
type node struct{ *rig }

func (n node) Set(a []netip.Addr) error     { return n.do("probes only to %v", a) }
func (n node) Add(a ...netip.Addr) error    { return n.do("probes to %v", a) }
func (n node) Remove(a ...netip.Addr) error { return n.do("no probes to %v", a) }
func (n node) Verify() error                { return nil }
func (r *rig) find(pods []Pod) map[string]Place {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := map[string]Place{}
	for _, p := range pods {
		found[p.UID] = r.here
	}
	return found
}

func newRig(t *testing.T, prepare func(r *rig)) *rig {
	t.Helper()
	ns, err := netns.Open("/proc/self/ns/net")
	if err != nil {
		t.Skipf("needs Linux: %v", err)
	}
	defer ns.Close()
	r := &rig{t: t, Server: kubetest.New(), fail: map[string]error{}, here: Place{Path: "/proc/self/ns/net", ID: ns.ID()}}
	if prepare != nil {
		prepare(r)
	}
	client, err := kube.New(kube.Options{Server: "http://api", Transport: r.Server})
	if err != nil {
		t.Fatal(err)
	}
	k := Kubernetes{Client: client, Node: "n1"}
	r.e = New(Options{
		Handler: r, Find: r.find, All: func() []Place { return r.all }, Node: node{r}, Mark: k.Mark,
		Rules: Rules{
			Apply: func(_ *netns.Netns, o capture.Options) error {
				r.mu.Lock()
				r.last = o
				r.mu.Unlock()
				return r.do("apply")
			},
			Verify: func(*netns.Netns, capture.Options) error { return r.failing("verify") },
			Remove: func(*netns.Netns) error { return r.do("remove rules") },
			There:  func(*netns.Netns) (bool, error) { return r.rules, nil },
		},
	})
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	r.done.Go(func() { r.e.Run(ctx) })
	r.done.Go(func() { k.Run(ctx, r.e) })
	return r
}

func (r *rig) end() {
	r.stop()
	r.done.Wait()
}

// expect waits for everything to be done.
func (r *rig) expect(want ...string) {
	r.t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.did, want) {
		r.t.Errorf("did %q, want %q", r.did, want)
	}
	r.did = nil
}

func (r *rig) marked(name, want string) {
	r.t.Helper()
	synctest.Wait()
	if got := r.Annotations("shop", name)[annotationRedirection]; got != want {
		r.t.Errorf("pod %s is annotated %q, want %q", name, got, want)
	}
}

func namespace(mode string) *corev1.Namespace {
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	if mode != "" {
		n.Labels = map[string]string{labelDataplane: mode}
	}
	return n
}

func pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec:       corev1.PodSpec{NodeName: "n1", ServiceAccountName: "sa"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func TestPodIsCapturedAndReleased(t *testing.T) {
	captured := []string{"probes to [10.0.0.1]", "serve uid-of-a shop/a sa", "apply"}
	released := []string{"remove rules", "end uid-of-a", "no probes to [10.0.0.1]"}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		defer r.end()
		r.Set(namespace(""))
		r.Set(pod("a"))
		r.expect("probes only to []", "synced")
		r.marked("a", "")

		r.Set(namespace("ambient"))
		r.expect(captured...)
		r.marked("a", "enabled")
		r.Set(namespace("ambient"))
		r.expect()

		r.Set(namespace(""))
		r.expect(released...)
		r.marked("a", "")

		label := func(mode string) func(*corev1.Pod) {
			return func(p *corev1.Pod) { p.Labels = map[string]string{labelDataplane: mode} }
		}
		r.Set(pod("a", label("ambient")))
		r.expect(captured...)
		r.Set(namespace("ambient"))
		r.expect() // all is there already
		r.Set(pod("a", label("none")))
		r.expect(released...)
		r.marked("a", "")

		r.Set(pod("a"))
		r.expect(captured...)
		r.marked("a", "enabled")
		r.Delete(pod("a"))
		r.expect(released...)
	})
}

func TestWhoHasEndedIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig) {
			r.Set(namespace("ambient"))
			r.Set(pod("a"))
		})
		defer r.end()
		r.expect("probes to [10.0.0.1]", "serve uid-of-a shop/a sa", "apply", "probes only to [10.0.0.1]", "synced")
		// Its addresses go first.
		r.Set(pod("a", func(p *corev1.Pod) {
			p.Annotations = map[string]string{annotationRedirection: "enabled"}
			p.Status = corev1.PodStatus{Phase: corev1.PodSucceeded}
		}))
		r.expect("remove rules", "end uid-of-a", "no probes to [10.0.0.1]")
		r.marked("a", "")
	})
}

func TestFailuresAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig) {
			r.Set(namespace("ambient"))
			r.Set(pod("a"))
			r.here.Err = errors.New("not yet")
		})
		defer r.end()
		r.expect("probes only to []", "synced")
		r.marked("a", "")
		r.mu.Lock()
		r.here.Err = nil
		r.mu.Unlock()
		serve := "serve uid-of-a shop/a sa"
		r.failsAt(serve)
		time.Sleep(600 * time.Millisecond)
		r.expect("probes to [10.0.0.1]", serve)
		time.Sleep(time.Second)
		r.expect(serve) // and nothing is redirected to where nobody listens
		r.failsAt("apply")
		time.Sleep(2 * time.Second)
		r.expect(serve, "apply")
		r.marked("a", "")
		r.failsAt("nothing")
		time.Sleep(15 * time.Second)
		r.expect("apply")
		r.marked("a", "enabled")
	})
}

func TestAnnotationsAreSetOnceTheServerAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig) {
			r.Set(namespace("ambient"))
			r.Set(pod("a"))
			r.Refuse(func(q *http.Request) int {
				if q.Method == http.MethodPatch {
					return http.StatusServiceUnavailable
				}
				return 0
			})
		})
		defer r.end()
		synctest.Wait()
		r.marked("a", "")
		r.Refuse(nil)
		time.Sleep(time.Second)
		r.marked("a", "enabled")

		// Somebody takes it away: it is put back, at one request.
		r.Requests()
		r.Set(pod("a"))
		r.marked("a", "enabled")
		if got := r.Requests(); len(got) != 1 {
			t.Errorf("asked %q, want one patch", got)
		}
	})
}

func TestAnnotationsChangeRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		annotated := func(k, v string) *corev1.Pod {
			return pod("a", func(p *corev1.Pod) { p.Annotations = map[string]string{k: v, annotationRedirection: "enabled"} })
		}
		r := newRig(t, func(r *rig) {
			r.Set(namespace("ambient"))
			r.Set(annotated(capture.BypassInbound, "true"))
		})
		defer r.end()
		synctest.Wait()
		if !r.last.InboundBypass {
			t.Error("the annotation does not count")
		}
		r.Set(annotated(capture.ExcludeOutboundPorts, "80"))
		synctest.Wait()
		if r.last.InboundBypass || !slices.Equal(r.last.ExcludeOutboundPorts, []uint16{80}) {
			t.Errorf("captured with %+v", r.last)
		}
		r.Set(annotated(capture.ExcludeOutboundPorts, "eighty"))
		synctest.Wait()
		if len(r.last.ExcludeOutboundPorts) != 0 {
			t.Errorf("captured with %+v", r.last)
		}
	})
}

func TestEarlierProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := func(p *corev1.Pod) { p.Annotations = map[string]string{annotationRedirection: "enabled"} }
		r := newRig(t, func(r *rig) {
			r.Set(namespace("none"))
			r.Set(pod("a", left))
			r.rules, r.all = true, []Place{r.here}
		})
		defer r.end()
		r.expect("probes only to []", "synced", "remove rules")
		r.marked("a", "")
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig) {
			r.Set(namespace("ambient"))
			r.Set(pod("a"))
			r.rules, r.all = true, []Place{r.here}
		})
		defer r.end()
		r.expect("probes to [10.0.0.1]", "serve uid-of-a shop/a sa", "apply", "probes only to [10.0.0.1]", "synced")
	})
	synctest.Test(t, func(t *testing.T) { // as long as it may be anywhere, nothing is removed
		r := newRig(t, func(r *rig) {
			r.Set(namespace("ambient"))
			r.Set(pod("a"))
			r.rules, r.all = true, []Place{r.here}
			r.here.Err = errors.New("not yet")
		})
		defer r.end()
		r.expect("probes only to []", "synced")
	})
}

func TestAudit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig) {
			r.Set(namespace("ambient"))
			r.Set(pod("a"))
		})
		defer r.end()
		r.expect("probes to [10.0.0.1]", "serve uid-of-a shop/a sa", "apply", "probes only to [10.0.0.1]", "synced")
		time.Sleep(90 * time.Second)
		r.expect()
		r.failsAt("verify")
		time.Sleep(time.Minute)
		r.failsAt("nothing")
		r.expect("apply")
	})
}

// TestWhereItWasFound: that may end, as a process does, or be another namespace.
func TestWhereItWasFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		link := filepath.Join(t.TempDir(), "ns")
		if err := os.Symlink("/proc/self/ns/net", link); err != nil {
			t.Fatal(err)
		}
		r := newRig(t, func(r *rig) {
			r.Set(namespace("ambient"))
			r.Set(pod("a"))
			r.here.Path = link
		})
		defer r.end()
		r.expect("probes to [10.0.0.1]", "serve uid-of-a shop/a sa", "apply", "probes only to [10.0.0.1]", "synced")
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		r.expect() // it is not found, and stays captured
		r.mu.Lock()
		r.here.Path = "/proc/self/ns/net"
		r.mu.Unlock()
		time.Sleep(time.Minute)
		r.expect() // the same as before
		r.Delete(pod("a"))
		r.expect("remove rules", "end uid-of-a", "no probes to [10.0.0.1]")
	})
}

// TestPendingPodIsTakenBack from the tunnel, which keeps trying.
func TestPendingPodIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		serve := "serve uid-of-a shop/a sa"
		r := newRig(t, func(r *rig) {
			r.Set(namespace("ambient"))
			r.Set(pod("a"))
			r.failsAt(serve)
		})
		defer r.end()
		r.expect("probes to [10.0.0.1]", serve, "probes only to [10.0.0.1]", "synced")
		r.Delete(pod("a"))
		r.expect("remove rules", "end uid-of-a", "no probes to [10.0.0.1]")
	})
}

func TestNothingLeaks(t *testing.T) {
	count := func() int {
		t.Helper()
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skipf("needs Linux: %v", err)
		}
		return len(fds)
	}
	before := count()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig) { r.Set(namespace("ambient")) })
		defer r.end()
		for n := range 20 {
			p := pod("a", func(p *corev1.Pod) { p.UID = types.UID(fmt.Sprint("uid-", n)) })
			r.Set(p)
			synctest.Wait()
			if n%2 == 0 {
				r.failsAt(fmt.Sprintf("serve uid-%d shop/a sa", n+1))
			}
			if n < 15 { // the others are there at the end
				r.Delete(p)
				synctest.Wait()
			}
		}
	})
	if after := count(); after != before {
		t.Errorf("%d descriptors are open, and %d were", after, before)
	}
}

func TestPodsOfAnotherNameAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		defer r.end()
		r.Set(pod("a", func(p *corev1.Pod) { p.UID = "new" }))
		old := Pod{UID: "old", Namespace: "shop", Name: "a"}
		client, err := kube.New(kube.Options{Server: "http://api", Transport: r.Server})
		if err != nil {
			t.Fatal(err)
		}
		k := Kubernetes{Client: client, Node: "n1"}
		if err := k.Mark(t.Context(), old, "enabled"); err != nil {
			t.Errorf("Mark of a pod that is gone: %v", err)
		}
		r.marked("a", "")
		now := old
		now.UID = "new"
		if err := k.Mark(t.Context(), now, "enabled"); err != nil {
			t.Fatal(err)
		}
		r.marked("a", "enabled")
		if n, err := k.Unmark(t.Context()); n != 1 || err != nil {
			t.Errorf("Unmark: %d, %v", n, err)
		}
		r.marked("a", "")
	})
}

func TestEligible(t *testing.T) {
	for _, r := range []struct {
		name   string
		mode   string // of the namespace
		change func(*kube.Pod)
		want   bool
	}{
		{"no label", "", nil, false},
		{"namespace", "ambient", nil, true},
		{"namespace of sidecars", "none", nil, false},
		{"pod", "", func(p *kube.Pod) { p.Metadata.Labels[labelDataplane] = "ambient" }, true},
		{"pod though namespace", "none", func(p *kube.Pod) { p.Metadata.Labels[labelDataplane] = "ambient" }, true},
		{"pod opts out", "ambient", func(p *kube.Pod) { p.Metadata.Labels[labelDataplane] = "none" }, false},
		{"pod says something else", "ambient", func(p *kube.Pod) { p.Metadata.Labels[labelDataplane] = "sidecar" }, true},
		{"host network", "ambient", func(p *kube.Pod) { p.Spec.HostNetwork = true }, false},
		{"sidecar", "ambient", func(p *kube.Pod) { p.Metadata.Annotations[annotationSidecar] = "" }, false},
		{"init containers run", "ambient", func(p *kube.Pod) { p.Status.Phase = "Pending" }, true},
		{"done", "ambient", func(p *kube.Pod) { p.Status.Phase = "Succeeded" }, false},
		{"failed", "ambient", func(p *kube.Pod) { p.Status.Phase = "Failed" }, false},
		{"about to end", "ambient", func(p *kube.Pod) { p.Metadata.DeletionTimestamp = "now" }, true},
	} {
		p := kube.Pod{Metadata: kube.Meta{Labels: map[string]string{}, Annotations: map[string]string{}}}
		p.Status.Phase = "Running"
		if r.change != nil {
			r.change(&p)
		}
		if got := podFrom(slim(p), r.mode).Wanted; got != r.want {
			t.Errorf("%s: %v, want %v", r.name, got, r.want)
		}
	}
}

func TestPodOfGroup(t *testing.T) {
	const id = "9bca8d63d5fa610783847915bcff0ecac1273e5b4bed3f6fa1b07350e0135961"
	pods := []Pod{{UID: "2c48913c-b29f-11e7-9350-020968147796"}, {UID: "aaaa8913-b29f-11e7-9350-020968147796", Containers: []string{id}}, {UID: "short", Containers: []string{"61"}}}
	for line, want := range map[string]string{
		"5:memory:/kubepods/burstable/pod2c48913c-b29f-11e7-9350-020968147796/0123":                                                              pods[0].UID,
		"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2c48913c_b29f_11e7_9350_020968147796.slice/cri-containerd-0123.scope": pods[0].UID,
		"0::/kubepods-besteffort-pod2c48913c_b29f_11e7_9350_020968147796.slice:cri-containerd:0123":                                              pods[0].UID,
		"0::/../../pod2c48913c-b29f-11e7-9350-020968147796/0123":                                                                                 pods[0].UID,
		"0::/../../pod2c48913c-b29f-11e7-9350-0209681477967/0123":                                                                                "",
		"0::/../crio-" + id + ".scope":  pods[1].UID,
		"0::/system.slice/" + id:        pods[1].UID,
		"0::/" + id + "/more":           "",
		"0::/system.slice/sshd-61":      "",
		"0::/":                          "",
		"":                              "",
		"nonsense":                      "",
		"0::/kubepods/burstable/podxyz": "",
	} {
		got := ""
		if p := podOfGroup(line, pods); p != nil {
			got = p.UID
		}
		if got != want {
			t.Errorf("%q is of pod %q, want %q", line, got, want)
		}
	}
}

func FuzzPodOfGroup(f *testing.F) {
	f.Add("0::/kubepods/pod2c48913c-b29f-11e7-9350-020968147796/0123", "2c48913c-b29f-11e7-9350-020968147796", "0123")
	f.Add("0::", "", "")
	f.Fuzz(func(t *testing.T, line, uid, id string) {
		p := podOfGroup(line, []Pod{{UID: uid, Containers: []string{id}}})
		if p != nil && !strings.Contains(line, uid) && !strings.Contains(line, strings.ReplaceAll(uid, "-", "_")) && !strings.Contains(line, id) {
			t.Errorf("%q is taken for one of pod %q, container %q", line, uid, id)
		}
	})
}
