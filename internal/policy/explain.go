package policy

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// A Report says what would become of a request, and why.
type Report struct {
	Allowed bool   `json:"allowed"`
	Status  int    `json:"status,omitempty"` // of the refusal; 0: the request passes, or is not HTTP
	Line    string `json:"line"`             // why, in one line
	Policy  string `json:"policy,omitempty"` // ns/name of the policy that decided; none: there are ALLOW policies, and none matched

	// Unsure says that an authorizer has to be asked first: Allowed is what comes
	// out if it says yes.
	Unsure bool `json:"unsure,omitempty"`

	Request  Asked    `json:"request"`
	Assumed  []string `json:"assumed,omitempty"`
	Problems []string `json:"problems,omitempty"` // what the proxies would refuse of the files
	Steps    []Step   `json:"steps"`
}

// Asked is the request as it was understood.
type Asked struct {
	To       string `json:"to"`
	Dest     string `json:"dest"`
	From     string `json:"from,omitempty"` // a principal; "" is plaintext
	SourceIP string `json:"sourceIP,omitempty"`
	Method   string `json:"method,omitempty"`
	Host     string `json:"host,omitempty"`
	Path     string `json:"path,omitempty"`
	SNI      string `json:"sni,omitempty"`
}

// A Step is one proxy on the way, and what its policies say.
type Step struct {
	At      string   `json:"at"` // waypoint or node
	Where   string   `json:"where"`
	Pods    []string `json:"pods,omitempty"`   // at the node: those that answer alike
	Client  string   `json:"client,omitempty"` // who that proxy sees; "" is nobody
	Allowed bool     `json:"allowed"`
	Status  int      `json:"status,omitempty"`
	Skipped string   `json:"skipped,omitempty"` // why nobody is asked
	Refused string   `json:"refused,omitempty"` // why it is refused before any policy is asked
	Token   *Token   `json:"token,omitempty"`
	Asked   []Answer `json:"asked,omitempty"`
	Logged  string   `json:"logged,omitempty"` // the details that the log has of the refusal
	Route   string   `json:"route,omitempty"`  // where it goes on to

	// Explanation is what the policies say. If an authorizer or the token has it
	// refused before, it is what they would have said.
	Explanation *authz.Explanation `json:"explanation,omitempty"`
}

// A Token is what was made of the request's JWT.
type Token struct {
	Valid     bool   `json:"valid"`
	Trusted   bool   `json:"trusted,omitempty"` // it was not verified
	Principal string `json:"principal,omitempty"`
	Reason    string `json:"reason,omitempty"`
	Policy    string `json:"policy,omitempty"` // the RequestAuthentication whose reason it is
}

// An Answer is that of an authorizer, as far as it can be told here.
type Answer struct {
	Provider string `json:"provider"`
	Kind     string `json:"kind,omitempty"`
	Rule     string `json:"rule"`
	Answer   string `json:"answer"` // allowed, denied, or why it is not known
	Status   int    `json:"status,omitempty"`

	details string // as the log has them
}

// Explain says what would become of r. The error says what in r is wrong.
func (m *Mesh) Explain(ctx context.Context, r Request, now time.Time) (*Report, error) {
	id, err := m.client(r.From)
	if err != nil {
		return nil, err
	}
	if !slices.Contains([]string{"", atWaypoint, atNode}, r.At) {
		return nil, errors.New("at: " + r.At + " is neither waypoint nor node")
	}
	d, err := m.destination(&r)
	if err != nil {
		return nil, err
	}
	j := &journey{Mesh: m, ctx: ctx, r: &r, d: d, peer: id, source: r.SourceIP, now: now}
	if w := m.podOf(id); w != nil {
		name := w.Namespace + "/" + w.Name
		if !r.SourceIP.IsValid() {
			j.source = w.Addresses[0]
			d.assume("the client's address is %s, that of pod %s", j.source, name)
		}
		if w.Tunnel != mesh.HBONE && !w.NativeTunnel {
			d.assume("pod %s is in the mesh, although nothing says so: as it is, it is in plaintext", name)
		}
	}
	return j.report()
}

// The proxies on the way.
const (
	atWaypoint = "waypoint"
	atNode     = "node"
)

// A journey is a request on its way.
type journey struct {
	*Mesh
	ctx    context.Context
	r      *Request
	d      *destination
	now    time.Time
	peer   identity.ID // of the client
	source netip.Addr
	out    Report
	head   *l7.Request
}

func (j *journey) report() (*Report, error) {
	d := j.d
	var pods []mesh.Endpoint
	through := d.gateway != mesh.Key{}
	switch {
	case through && j.peer.IsZero() && j.r.At == "" && !j.bare:
		j.add(Step{At: atWaypoint, Where: j.whereWaypoint(), Allowed: true, Skipped: "a client in plaintext goes past it, to the pod"})
		through = false
	case !through && j.r.At != atNode:
		j.add(Step{At: atWaypoint, Allowed: true, Where: "none", Skipped: d.name + " has no waypoint, so no policy with targetRefs is enforced"})
	}
	var err error
	if through && j.r.At != atNode {
		if pods, err = j.waypoint(); err != nil {
			return nil, err
		}
	} else if pods, err = j.direct(); err != nil {
		return nil, err
	}
	if j.r.At != atWaypoint {
		j.nodes(pods, through && j.r.At != atNode)
	}
	j.finish()
	return &j.out, nil
}

func (j *journey) add(s Step) { j.out.Steps = append(j.out.Steps, s) }

func (j *journey) whereWaypoint() string { return j.d.gateway.Namespace + "/" + j.d.gateway.Name }

// finish says what it all comes to: the first refusal counts.
func (j *journey) finish() {
	out, d := &j.out, j.d
	out.Request = Asked{To: d.name, Dest: d.authority.String(), From: j.peer.Principal(), SNI: j.r.SNI}
	if j.source.IsValid() {
		out.Request.SourceIP = j.source.String()
	}
	if h := j.head; h != nil {
		out.Request.Method, out.Request.Host, out.Request.Path = h.Method, h.Authority, h.PathOnly()
	}
	out.Assumed = d.assumed
	for _, err := range j.Problems() {
		out.Problems = append(out.Problems, err.Error())
	}
	out.Allowed = true
	for i := range out.Steps {
		s := &out.Steps[i]
		for _, a := range s.Asked {
			out.Unsure = out.Unsure || a.Answer != answeredYes && a.Answer != answeredNo
		}
		if out.Allowed && !s.Allowed {
			out.Allowed, out.Status, out.Line, out.Policy = false, s.Status, s.line(), s.policy()
		}
	}
	if s := out.passed(); out.Allowed && s != nil {
		out.Line, out.Policy = s.line(), s.policy()
	} else if out.Allowed {
		out.Line = "every step: no policy is enforced on its way"
	}
}

// waypoint asks the waypoint, and returns where the request goes on to.
func (j *journey) waypoint() ([]mesh.Endpoint, error) {
	v := j.view(j.d.gateway, j.d.more...)
	s := Step{At: atWaypoint, Where: j.whereWaypoint(), Client: j.peer.Principal(), Allowed: true}
	found := v.Lookup("", j.peer.Namespace, j.d.authority)
	if found == nil || !found.Attached {
		s.Allowed, s.Status, s.Refused = false, 404, "it does not serve "+j.d.name
		j.add(s)
		return nil, nil
	}
	in, refused, err := j.input(v, found)
	if err != nil {
		return nil, err
	}
	if refused != nil {
		s.Allowed, s.Status, s.Refused = false, 400, refused.Error()
		j.add(s)
		return nil, nil
	}
	j.consult(&s, v, found, in)
	if in.HTTP != nil {
		if err := j.token(&s, v, found, in); err != nil {
			return nil, err
		}
	}
	s.judge(found.Policies, in)
	pods := found.Endpoints
	if s.Allowed && in.HTTP != nil {
		pods = s.route(v, found, in.HTTP)
	}
	j.add(s)
	return pods, nil
}

// input returns what the waypoint's policies are asked about.
func (j *journey) input(v *view, found *config.Destination) (in *authz.Input, refused, err error) {
	dest := netip.AddrPortFrom(j.d.authority.IP, j.d.authority.Port)
	if !dest.Addr().IsValid() && found.Service != nil && len(found.Service.Addresses) > 0 {
		dest = netip.AddrPortFrom(found.Service.Addresses[0].Prefix.Addr(), dest.Port())
	}
	in = &authz.Input{Peer: j.peer, Source: j.source, Dest: dest, SNI: j.r.SNI}
	if p := found.Port; p != nil && !j.r.TCP && p.Protocol != mesh.Undeclared && !p.Protocol.IsHTTP() {
		j.d.assume("port %d is declared to be %s, so nobody looks for HTTP in it: the request is a connection", p.Service, p.Protocol)
		return in, nil, nil
	}
	in.HTTP, refused = j.r.head(j.d.host, j.d.authority.Port, func(path string) (string, error) {
		return routing.Normalize(v.Mesh().Normalization, path)
	})
	j.head = in.HTTP
	if found.Service != nil && found.Port == nil {
		j.d.assume("%s has no port %d: what comes there is judged all the same, and goes nowhere", j.d.name, dest.Port())
	}
	return in, refused, nil
}

// judge asks the policies, unless it is refused already.
func (s *Step) judge(set *authz.Set, in *authz.Input) {
	s.Explanation = set.Explain(in)
	if s.Allowed && !s.Explanation.Allowed {
		s.Allowed, s.Logged = false, s.Explanation.Details
		if in.HTTP != nil {
			s.Status = 403
		}
	}
}

// route finds where a request goes on to.
func (s *Step) route(v *view, found *config.Destination, head *l7.Request) (out []mesh.Endpoint) {
	if found.Routes == nil {
		return found.Endpoints
	}
	rule := found.Routes.Match(head)
	if rule == nil {
		s.Route = "no route matches: 404"
		return nil
	}
	s.Route = rule.Name
	for i := range rule.Backends {
		b := &rule.Backends[i]
		switch {
		case b.Weight == 0 || b.Invalid != "":
		case b.Service == mesh.Hostname{}:
			out = append(out, found.Endpoints...)
		default:
			if d := v.Backend(b.Service, b.Port); d != nil {
				out = append(out, d.Endpoints...)
			}
		}
	}
	return out
}

// direct returns the endpoints of a destination that no waypoint is before.
func (j *journey) direct() ([]mesh.Endpoint, error) {
	var err error
	if j.head, err = j.r.head(j.d.host, j.d.authority.Port, func(path string) (string, error) { return path, nil }); err != nil {
		return nil, err
	}
	found := j.view(node, j.d.more...).Lookup("", j.peer.Namespace, j.d.authority)
	if found == nil {
		return nil, nil
	}
	return found.Endpoints, nil
}
