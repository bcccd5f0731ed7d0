package waypoint_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/waypoint"
)

const admins = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: admins, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: items}]
  rules:
  - to: [{operation: {paths: ["/open*"]}}]
  - to: [{operation: {paths: ["/known"]}}]
    from: [{source: {requestPrincipals: ["https://issuer.example/*"]}}]
  - to: [{operation: {paths: ["/admin"]}}]
    when: [{key: "request.auth.claims[groups]", values: [admin]}]
`

// TestTokens brings tokens of all sorts, over both versions of HTTP.
func TestTokens(t *testing.T) {
	m := meshtest.New(t)
	shop(m, "http", meshtest.Echo)
	i := waypoint.NewIssuer(1)
	m.Apply(fmt.Sprintf(waypoint.TakesTokens, "jwks: '"+i.Keys()+"'"))
	m.Apply(admins)
	good, admin := i.Token(nil), i.Token(map[string]any{"groups": []string{"staff", "admin"}})
	other := waypoint.NewIssuer(2)
	for version, c := range map[string]*meshtest.Client{"HTTP/1.1": m.From("web"), "HTTP/2": m.FromHTTP2("web")} {
		t.Run(version, func(t *testing.T) {
			for _, x := range []struct {
				name, path, token string
				status            int
				body              string
			}{
				{"none, and none is needed", "/open", "", 200, "GET /open "},
				{"none, and one is needed", "/known", "", 403, "RBAC: access denied"},
				{"a good one", "/known", good, 200, "X-Subject: ann\r\n"},
				{"a good one, to the destination", "/known", good, 200, "X-Payload: " + strings.Split(good, ".")[1] + "\r\n"},
				{"a good one, remembered", "/known", good, 200, ""},
				{"without the claim", "/admin", good, 403, "RBAC: access denied"},
				{"with the claim", "/admin", admin, 200, ""},
				{"not one", "/open", "x", 401, "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"},
				{"expired", "/open", i.Token(map[string]any{"exp": 1000}), 401, "Jwt is expired"},
				{"early", "/open", i.Token(map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}), 401, "Jwt not yet valid"},
				{"for others", "/open", i.Token(map[string]any{"aud": "reviews"}), 403, "Audiences in Jwt are not allowed"},
				{"by others", "/open", i.Token(map[string]any{"iss": "https://other.example"}), 401, "Jwt issuer is not configured"},
				{"forged", "/open", other.Token(nil), 401, "Jwt verification fails"},
			} {
				var header []string
				if x.token != "" {
					header = []string{"authorization", "Bearer " + x.token, "x-subject", "root"}
				}
				r := c.Do("GET", "http://items"+x.path, "", header...).Want(x.status).WantBody(x.body)
				challenge := r.Header.Get("www-authenticate")
				refused := x.status != 200 && !strings.HasPrefix(x.body, "RBAC")
				if want := `Bearer realm="http://items` + x.path + `", error="invalid_token"`; refused && challenge != want || !refused && challenge != "" {
					t.Errorf("%s: www-authenticate is %q, want %q: %v", x.name, challenge, want, refused)
				}
				if strings.Contains(r.Body, "Authorization") || strings.Contains(r.Body, "root") {
					t.Errorf("%s: the destination saw %q", x.name, r.Body)
				}
			}
		})
	}
	m.WantLog("path", "/open", "response_code", 401, "response_flags", "-", "response_code_details", "jwt_authn_access_denied{Jwt_is_expired}")
	m.WantLog("path", "/open", "response_code", 403, "response_code_details", "jwt_authn_access_denied{Audiences_in_Jwt_are_not_allowed}")
	m.WantMetric(`istio_requests_total{reporter="waypoint",response_code="401"}`, 10)
}

// TestTokenInTheQuery takes it out of what goes on and of what is logged, valid or
// not.
func TestTokenInTheQuery(t *testing.T) {
	m := meshtest.New(t)
	shop(m, "http", meshtest.Echo)
	i := waypoint.NewIssuer(1)
	m.Apply(fmt.Sprintf(waypoint.TakesTokens, "jwks: '"+i.Keys()+"'"))
	c, good, late := m.From("web"), i.Token(nil), i.Token(map[string]any{"exp": 1000})
	c.Get("http://items/a?x=1&access_token=" + good + "&y").Want(200).WantBody("GET /a?x=1&y ")
	c.Get("http://items/a?access_token=" + late).Want(401).WantBody("Jwt is expired")
	c.Get("http://items/a?access_token=letmein").Want(401)
	c.Get("http://items/a?mine=" + late + "&z").Want(200)
	m.WantLog("path", "/a?x=1&access_token=(redacted)&y")
	m.WantLog("path", "/a?mine=(redacted)&z")
	for _, line := range m.Log() {
		for _, secret := range []string{good, late, "letmein"} {
			if strings.Contains(line, secret) {
				t.Errorf("the log has a token: %s", line)
			}
		}
	}
}

// TestTokensOfFetchedKeys refuses tokens until their keys are there.
func TestTokensOfFetchedKeys(t *testing.T) {
	i := waypoint.NewIssuer(1)
	keys, err := jwt.ParseKeys([]byte(i.Keys()))
	if err != nil {
		t.Fatal(err)
	}
	rings := make(chan jwt.Ring, 2)
	rings <- nil
	rings <- jwt.Ring{{URI: "https://issuer.example/keys"}: keys}
	m := meshtest.With(t, meshtest.Options{Waypoint: func(o *waypoint.Options) { o.Keys = func() jwt.Ring { return <-rings } }})
	shop(m, "http", meshtest.Echo)
	m.Apply(fmt.Sprintf(waypoint.TakesTokens, "jwksUri: https://issuer.example/keys"))
	c := m.From("web")
	c.Do("GET", "http://items/", "", "authorization", "Bearer "+i.Token(nil)).Want(401).WantBody("Jwks remote fetch is failed")
	c.Do("GET", "http://items/", "", "authorization", "Bearer "+i.Token(nil)).Want(200)
}

// TestTokensOfCalls refuses a gRPC call as gRPC has it.
func TestTokensOfCalls(t *testing.T) {
	eachPort(t, func(t *testing.T, c *caller) {
		i := waypoint.NewIssuer(1)
		c.m.Apply(fmt.Sprintf(waypoint.TakesTokens, "jwks: '"+i.Keys()+"'"))
		call := func(token string) (metadata.MD, *status.Status) {
			var out words
			ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+token)
			s := c.stream(ctx, "/t.S/Unary")
			_ = s.SendMsg(&words{"on"})
			_ = s.CloseSend()
			err := s.RecvMsg(&out)
			if err == nil { // and the end, before which there are no trailers
				if err = s.RecvMsg(&out); errors.Is(err, io.EOF) {
					err = nil
				}
			}
			return s.Trailer(), status.Convert(err)
		}
		if _, s := call(i.Token(nil)); s.Code() != codes.OK {
			t.Errorf("a good token: %v", s)
		}
		trailer, s := call(i.Token(map[string]any{"exp": 1000}))
		if s.Code() != codes.Unauthenticated || s.Message() != "Jwt is expired" || len(trailer.Get("www-authenticate")) != 1 {
			t.Errorf("an expired token: %v, %v", s, trailer)
		}
		if _, s := call(i.Token(map[string]any{"aud": "x"})); s.Code() != codes.PermissionDenied || s.Message() != "Audiences in Jwt are not allowed" {
			t.Errorf("a token for others: %v", s)
		}
		c.m.WaitMetric(`istio_requests_total{reporter="waypoint",grpc_response_status="16",response_code="200"}`, 1)
	})
}
