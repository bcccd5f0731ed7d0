package policy

import (
	"fmt"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
)

// line says in one line why a step refuses.
func (s *Step) line() string {
	at := "the waypoint " + s.Where
	if s.At == atNode {
		at = "the node tunnel of " + s.Where
	}
	why := s.why()
	for _, word := range []string{"denied: ", "denied ", "allowed: ", "allowed "} { // it is said before
		if rest, ok := strings.CutPrefix(why, word); ok {
			why = rest
			break
		}
	}
	return at + ": " + why
}

// why says why a step refuses, or lets pass.
func (s *Step) why() string {
	switch {
	case s.Refused != "":
		return s.Refused
	case s.Skipped != "":
		return s.Skipped
	}
	for _, a := range s.Asked {
		if a.Answer == answeredNo {
			return fmt.Sprintf("the provider %s says no, which %s asks", a.Provider, a.Rule)
		}
	}
	if t := s.Token; t != nil && !t.Valid && !s.Allowed {
		return "the JWT is " + t.refusal()
	}
	return s.Explanation.Line()
}

// refusal says why a token is of no use.
func (t *Token) refusal() string {
	if t.Policy == "" {
		return "not looked at: " + t.Reason
	}
	return "refused by RequestAuthentication " + t.Policy + ": " + t.Reason
}

// policy names the policy that decided at a step, of either kind.
func (s *Step) policy() string {
	for _, a := range s.Asked {
		if a.Answer == answeredNo {
			return policyOf(a.Rule)
		}
	}
	if t := s.Token; t != nil && !t.Valid && !s.Allowed {
		return t.Policy
	}
	switch x := s.Explanation; {
	case x == nil:
	case x.Decided != nil:
		return x.Decided.Policy
	case x.Reason == authz.ReasonNoAllow:
		return "none"
	}
	return ""
}

// passed returns the step that says most about why a request passes: the
// waypoint, if it had a say.
func (r *Report) passed() *Step {
	for _, at := range []string{atWaypoint, atNode} {
		for i := range r.Steps {
			if s := &r.Steps[i]; s.At == at && s.Explanation != nil {
				return s
			}
		}
	}
	return nil
}

// verdict is what a request comes to, in a word.
func verdict(allowed bool) string {
	if allowed {
		return "allowed"
	}
	return "denied"
}

// String returns r as text for people.
func (r *Report) String() string {
	var b strings.Builder
	b.WriteString(strings.ToUpper(verdict(r.Allowed)))
	if r.Status != 0 {
		fmt.Fprintf(&b, " (%d)", r.Status)
	}
	if r.Unsure && r.Allowed {
		b.WriteString(" if the authorizer says yes")
	}
	fmt.Fprintf(&b, " at %s\n\n", r.Line)
	fmt.Fprintf(&b, "request  %s\n", r.Request.line())
	for i, text := range r.Assumed {
		fmt.Fprintf(&b, "%-8s %s\n", once(i, "assumed"), text)
	}
	for i, text := range r.Problems {
		fmt.Fprintf(&b, "%-8s %s\n", once(i, "refused"), text)
	}
	for i := range r.Steps {
		r.Steps[i].print(&b, i+1)
	}
	return b.String()
}

// once returns word the first time.
func once(i int, word string) string {
	if i > 0 {
		return ""
	}
	return word
}

func (a *Asked) line() string {
	var b strings.Builder
	if a.Method != "" {
		fmt.Fprintf(&b, "%s http://%s%s, ", a.Method, a.Host, a.Path)
	} else {
		b.WriteString("a connection, ")
	}
	from := "a client in plaintext"
	if a.From != "" {
		from = a.From
	}
	b.WriteString("from " + from)
	if a.SourceIP != "" {
		b.WriteString(" at " + a.SourceIP)
	}
	return b.String() + ", to " + a.To + " (" + a.Dest + ")"
}

func (s *Step) print(b *strings.Builder, n int) {
	name := "waypoint " + s.Where
	if s.At == atNode {
		name = "node tunnel of " + s.Where
	}
	if s.Where == "none" {
		name = s.At
	}
	if s.Skipped != "" {
		fmt.Fprintf(b, "\n%d. %s: not asked: %s\n", n, name, s.Skipped)
		return
	}
	fmt.Fprintf(b, "\n%d. %s: %s", n, name, verdict(s.Allowed))
	if s.Status != 0 {
		fmt.Fprintf(b, " (%d)", s.Status)
	}
	b.WriteString("\n")
	if len(s.Pods) > 1 {
		fmt.Fprintf(b, "   pods: %s\n", strings.Join(s.Pods, ", "))
	}
	if s.At == atNode {
		fmt.Fprintf(b, "   client: %s\n", orNobody(s.Client))
	}
	if s.Refused != "" {
		fmt.Fprintf(b, "   %s\n", s.Refused)
		return
	}
	for _, a := range s.Asked {
		fmt.Fprintf(b, "   asks %s (%s) by %s: %s\n", a.Provider, a.Kind, a.Rule, a.Answer)
	}
	s.Token.print(b)
	if s.Route != "" {
		fmt.Fprintf(b, "   route: %s\n", s.Route)
	}
	if s.Explanation == nil {
		return
	}
	if s.Logged != "" {
		fmt.Fprintf(b, "   logged as %s\n", s.Logged)
	}
	if s.Logged != s.Explanation.Details {
		b.WriteString("   the policies, had it come to them:\n")
	}
	for line := range strings.Lines(s.Explanation.String()) {
		if line != "\n" {
			b.WriteString("   " + line)
		}
	}
}

func (t *Token) print(b *strings.Builder) {
	switch {
	case t == nil:
	case t.Trusted:
		fmt.Fprintf(b, "   JWT: of %s, taken as valid\n", t.Principal)
	case t.Valid:
		fmt.Fprintf(b, "   JWT: of %s, valid\n", t.Principal)
	default:
		fmt.Fprintf(b, "   JWT: %s\n", t.refusal())
	}
}

func orNobody(principal string) string {
	if principal == "" {
		return "nobody: plaintext"
	}
	return principal
}
