// Package kubetest is an API server for tests: pods and namespaces in memory,
// listed by pages, watched and patched as Kubernetes does it, without a socket,
// so that it can be in a synctest bubble.
package kubetest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A Server is an API server. It is an [http.RoundTripper], for
// [kube.Options.Transport].
type Server struct {
	mu       sync.Mutex
	version  int
	first    int // the oldest version that a watch may begin at
	objects  map[string][]object
	events   []event
	changed  chan struct{} // closed when events grows
	cut      chan struct{} // closed to end every watch
	refuse   func(*http.Request) int
	requests []string
}

type object = metav1.Object

type event struct {
	version int
	path    string
	kind    string
	node    string
	data    json.RawMessage
}

// New returns a Server that has no objects.
func New() *Server {
	return &Server{version: 100, objects: map[string][]object{}, changed: make(chan struct{}), cut: make(chan struct{})}
}

func pathOf(o object) string {
	if _, ok := o.(*corev1.Namespace); ok {
		return "/api/v1/namespaces"
	}
	return "/api/v1/pods"
}

func nodeOf(o object) string {
	if p, ok := o.(*corev1.Pod); ok {
		return p.Spec.NodeName
	}
	return ""
}

// Set creates or replaces a pod or a namespace. A pod without a UID is given
// one, of its name.
func (s *Server) Set(o object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setLocked(o)
}

func (s *Server) setLocked(o object) {
	if o.GetUID() == "" {
		o.SetUID(types.UID("uid-of-" + o.GetName()))
	}
	kind, all := "ADDED", s.objects[pathOf(o)]
	if i := s.findLocked(o); i >= 0 {
		kind, all[i] = "MODIFIED", o
	} else {
		s.objects[pathOf(o)] = append(all, o)
	}
	s.tellLocked(kind, o)
}

// Delete removes a pod or a namespace.
func (s *Server) Delete(o object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deleteLocked(o)
}

func (s *Server) deleteLocked(o object) {
	if i := s.findLocked(o); i >= 0 {
		all := s.objects[pathOf(o)]
		s.tellLocked("DELETED", all[i])
		s.objects[pathOf(o)] = slices.Delete(all, i, i+1)
	}
}

func (s *Server) findLocked(o object) int {
	return slices.IndexFunc(s.objects[pathOf(o)], func(x object) bool {
		return x.GetNamespace() == o.GetNamespace() && x.GetName() == o.GetName()
	})
}

func (s *Server) tellLocked(kind string, o object) {
	s.version++
	o.SetResourceVersion(strconv.Itoa(s.version))
	data, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	s.events = append(s.events, event{s.version, pathOf(o), kind, nodeOf(o), data})
	close(s.changed)
	s.changed = make(chan struct{})
}

// Annotations returns those of a pod.
func (s *Server) Annotations(namespace, name string) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.findLocked(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}})
	if i < 0 {
		return nil
	}
	return s.objects["/api/v1/pods"][i].GetAnnotations()
}

// Bookmark sends every watch the present version.
func (s *Server) Bookmark() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	for _, path := range []string{"/api/v1/pods", "/api/v1/namespaces"} {
		data := fmt.Appendf(nil, `{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"%d"}}`, s.version)
		s.events = append(s.events, event{s.version, path, "BOOKMARK", "", data})
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// Cut ends every watch, as a server that restarts does.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.cut)
	s.cut = make(chan struct{})
}

// Forget makes every version but the present one too old, as compaction does.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked()
}

func (s *Server) forgetLocked() { s.first, s.events = s.version, nil }

// Swap removes one object and adds another, of which no watch hears: it is
// forgotten at once.
func (s *Server) Swap(gone, come object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deleteLocked(gone)
	s.setLocked(come)
	s.forgetLocked()
}

// Refuse answers requests with the code that f returns, unless it is 0. A nil f
// refuses nothing.
func (s *Server) Refuse(f func(*http.Request) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = f
}

// Requests returns what was asked since it was last called: "list", "watch" or
// "patch" and the path.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.requests
	s.requests = nil
	return r
}

// RoundTrip answers r.
func (s *Server) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Context().Err() != nil {
		return nil, r.Context().Err()
	}
	verb := map[bool]string{true: "watch", false: "list"}[r.URL.Query().Get("watch") == "true"]
	if r.Method == http.MethodPatch {
		verb = "patch"
	}
	s.mu.Lock()
	s.requests = append(s.requests, verb+" "+r.URL.Path)
	refuse := s.refuse
	s.mu.Unlock()
	if refuse != nil {
		if code := refuse(r); code != 0 {
			return answer(code, status(code, "refused by the test")), nil
		}
	}
	switch verb {
	case "watch":
		return s.watch(r)
	case "patch":
		return s.patch(r)
	}
	return s.list(r), nil
}

func answer(code int, body any) *http.Response {
	b, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(string(b)))}
}

func status(code int, message string) metav1.Status {
	return metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Code: int32(code), Message: message}
}

// ofNode is the node that a request asks about, "" for all.
func ofNode(r *http.Request) string {
	node, _ := strings.CutPrefix(r.URL.Query().Get("fieldSelector"), "spec.nodeName=")
	return node
}

func (s *Server) list(r *http.Request) *http.Response {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := []object{}
	for _, o := range s.objects[r.URL.Path] {
		if node := ofNode(r); node == "" || nodeOf(o) == node {
			items = append(items, o)
		}
	}
	q := r.URL.Query()
	from, _ := strconv.Atoi(q.Get("continue"))
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil {
		limit = len(items)
	}
	meta := map[string]any{"resourceVersion": strconv.Itoa(s.version)}
	items = items[min(from, len(items)):]
	if len(items) > limit {
		items = items[:limit]
		meta["continue"] = strconv.Itoa(from + limit)
	}
	return answer(http.StatusOK, map[string]any{"kind": "List", "metadata": meta, "items": items})
}

func (s *Server) watch(r *http.Request) (*http.Response, error) {
	version, err := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	if err != nil {
		return answer(http.StatusBadRequest, status(http.StatusBadRequest, "no resourceVersion")), nil
	}
	s.mu.Lock()
	cut, old := s.cut, version < s.first
	s.mu.Unlock()
	if old {
		return answer(http.StatusGone, status(http.StatusGone, "too old resource version")), nil
	}
	body, w := io.Pipe()
	go s.feed(r, w, version, cut)
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: body}, nil
}

// feed writes events after version until the watch is cut or the reader goes.
func (s *Server) feed(r *http.Request, w *io.PipeWriter, version int, cut <-chan struct{}) {
	defer w.Close()
	out := json.NewEncoder(w)
	for {
		s.mu.Lock()
		changed, first, events := s.changed, s.first, slices.Clone(s.events)
		s.mu.Unlock()
		if version < first {
			out.Encode(map[string]any{"type": "ERROR", "object": status(http.StatusGone, "too old resource version")})
			return
		}
		for _, e := range events {
			if e.version <= version || e.path != r.URL.Path || e.node != "" && ofNode(r) != "" && e.node != ofNode(r) {
				continue
			}
			if out.Encode(map[string]any{"type": e.kind, "object": e.data}) != nil {
				return
			}
			version = e.version
		}
		select {
		case <-r.Context().Done():
			w.CloseWithError(r.Context().Err())
			return
		case <-cut:
			return
		case <-changed:
		}
	}
}

// patch merges annotations into a pod's.
func (s *Server) patch(r *http.Request) (*http.Response, error) {
	part := strings.Split(r.URL.Path, "/") // "", api, v1, namespaces, NS, pods, NAME, status
	var p struct {
		Metadata struct {
			UID         string
			Annotations map[string]*string
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil || len(part) != 8 || part[7] != "status" || r.Header.Get("Content-Type") != string(types.MergePatchType) {
		return answer(http.StatusBadRequest, status(http.StatusBadRequest, "not a merge patch of a pod's status")), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.findLocked(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: part[4], Name: part[6]}})
	if i < 0 {
		return answer(http.StatusNotFound, status(http.StatusNotFound, "no such pod")), nil
	}
	pod := s.objects["/api/v1/pods"][i].(*corev1.Pod).DeepCopy()
	if p.Metadata.UID != "" && p.Metadata.UID != string(pod.UID) {
		return answer(http.StatusUnprocessableEntity, status(http.StatusUnprocessableEntity, "metadata.uid: Invalid value: field is immutable")), nil
	}
	for k, v := range p.Metadata.Annotations {
		if v == nil {
			delete(pod.Annotations, k)
			continue
		}
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[k] = *v
	}
	s.setLocked(pod)
	return answer(http.StatusOK, pod), nil
}
