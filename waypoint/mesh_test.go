package waypoint_test

import (
	"testing"

	"github.com/waystone-mesh/waystone/internal/meshtest"
)

const denyPost = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny-post, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: items}]
  action: DENY
  rules: [{to: [{operation: {methods: [POST]}}]}]
`

func TestMesh(t *testing.T) {
	for _, o := range []struct {
		name string
		meshtest.Options
	}{{"memory", meshtest.Options{}}, {"loopback", meshtest.Options{Loopback: true}}} {
		t.Run(o.name, func(t *testing.T) {
			m := meshtest.With(t, o.Options)
			m.Workload("web")
			m.Workload("items").Serve(meshtest.Echo)
			m.Service("items", 80)
			m.From("web").Get("http://items/direct").Want(200).WantBody("GET /direct HTTP/1.1")
			m.Service("items", 80).Waypoint()
			m.From("web").Get("http://items/through").Want(200).WantBody("GET /through HTTP/1.1")
			m.From("web").Post("http://items/", "hello").Want(200).WantBody("hello")
			m.Apply(denyPost)
			m.From("web").Post("http://items/", "hello").Want(403).WantBody("RBAC: access denied")
			m.WantMetric(`istio_requests_total{reporter="waypoint",response_code="403"}`, 1)
			m.WantLog("path", "/", "response_code", 403, "response_code_details", "rbac_access_denied_matched_policy[ns[default]-policy[deny-post]-rule[0]]")
		})
	}
}

// TestMeshConfigSaysHowPathsAreNormalised changes it for a client that stays
// connected: the next request is read as it says.
func TestMeshConfigSaysHowPathsAreNormalised(t *testing.T) {
	m := meshtest.New(t)
	shop(m, "http", meshtest.Echo)
	m.Apply(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: items}]
  action: DENY
  rules: [{to: [{operation: {paths: ["/admin"]}}]}]
`)
	c := m.From("web")
	for _, x := range []struct {
		say        string
		path, seen string // by the destination; "": it is denied
	}{
		{"", "//admin", "//admin"},
		{"", "/x/../admin", ""},
		{"MERGE_SLASHES", "//admin", ""},
		{"MERGE_SLASHES", "/a//b", "/a/b"},
		{"DECODE_AND_MERGE_SLASHES", "/%2Fadmin", ""},
		{"NONE", "/x/../admin", "/x/../admin"},
		{"BASE", "//admin", "//admin"},
	} {
		if x.say != "" {
			m.Apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    pathNormalization: {normalization: " + x.say + "}\n")
		}
		r := c.Get("http://items" + x.path)
		if x.seen == "" {
			r.Want(403)
		} else {
			r.Want(200).WantBody("GET " + x.seen + " ")
		}
	}
}
