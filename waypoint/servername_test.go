package waypoint_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/waypoint"
)

// byName is a policy about a server name.
func byName(action, condition string) string {
	return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: named, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: items}]
  action: %s
  rules: [{when: [{key: connection.sni, %s}]}]
`, action, condition)
}

// says sends p, in one piece or byte by byte, and checks whether it comes back.
func (c *talk) says(p []byte, slowly, ok bool) {
	c.t.Helper()
	if c.Conn == nil {
		c.t.Error("there is no connection to speak on")
		return
	}
	defer c.Close()
	step := len(p)
	if slowly {
		step = 1
	}
	for rest := p; len(rest) > 0; rest = rest[step:] {
		if _, err := c.Write(rest[:step]); err != nil {
			break // it may have been cut off
		}
	}
	got := make([]byte, len(p))
	_, err := io.ReadFull(c, got)
	if same := err == nil && bytes.Equal(got, p); same != ok {
		c.t.Errorf("got %d bytes, %v; want an answer: %v", len(got), err, ok)
	}
}

// Tunnels are judged by the server that their client means where a policy asks for
// one, on ports that may be TLS.
func TestServerNames(t *testing.T) {
	for _, protocol := range []string{"tls", ""} {
		t.Run("port "+protocol, func(t *testing.T) {
			m := meshtest.New(t)
			dial := talker(t, m, "web", protocol)
			good, bad, plain := waypoint.Hello(t, "good.example.com"), waypoint.Hello(t, "Bad.example.com"), []byte("\x00SSH-2.0")
			torn := append([]byte{22, 3, 1, 0, 1, 1}, good[6:]...)

			m.Apply(byName("DENY", "values: [bad.example.com]"))
			for _, slowly := range []bool{false, true} {
				dial().says(good, slowly, true)
				dial().says(bad, slowly, false)
				dial().says(plain, slowly, true)
			}
			dial().says(torn, false, false)
			m.WantLog("requested_server_name", "good.example.com", "response_flags", "-")
			m.WantLog("requested_server_name", "Bad.example.com", "connection_termination_details", "rbac_access_denied_matched_policy[ns[default]-policy[named]-rule[0]]")
			m.WantLog("response_flags", "DPE")

			m.Apply(byName("ALLOW", "values: ['*.example.com'], notValues: [bad.example.com]"))
			dial().says(good, false, true)
			dial().says(bad, false, false)
			dial().says(plain, false, false)
			dial().says(waypoint.Hello(t, "elsewhere.example"), false, false)
			dial().says(waypoint.Hello(t, ""), false, false)
		})
	}
}

// On a port that is declared as TCP there is no server name, as in Istio.
func TestServerNamesAreOfTLSPorts(t *testing.T) {
	m := meshtest.New(t)
	dial := talker(t, m, "web", "tcp")
	hello := waypoint.Hello(t, "bad.example.com")
	m.Apply(byName("DENY", "values: [bad.example.com]"))
	dial().says(hello, false, true)
	m.Apply(byName("ALLOW", "values: [bad.example.com]"))
	if c := dial(); c.Conn != nil {
		c.says(hello, false, false)
	}
}

// Who has said its server name before anybody listened is judged no more: it has to
// say it again. Who was listened to is judged by what it said.
func TestServerNamesOfOpenTunnels(t *testing.T) {
	m := meshtest.New(t)
	dial := talker(t, m, "web", "tls")
	unheard := dial().want(true)
	m.Apply(byName("DENY", "values: [other.example.com]"))
	if _, err := unheard.Read(make([]byte, 1)); err == nil {
		t.Error("a tunnel goes on whose server name nobody has heard")
	}
	heard := dial()
	hello := waypoint.Hello(t, "good.example.com")
	if _, err := heard.Write(hello); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(heard, make([]byte, len(hello))); err != nil {
		t.Fatal(err)
	}
	m.Apply(byName("DENY", "values: [third.example.com]"))
	heard.want(true)
	m.Apply(byName("DENY", "values: [good.example.com]"))
	if _, err := heard.Read(make([]byte, 1)); err == nil {
		t.Error("a tunnel goes on whose server name is denied")
	}
}
