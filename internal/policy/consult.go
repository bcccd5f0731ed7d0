package policy

import (
	"context"
	"net/netip"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/opa"
)

// The answers of authorizers that are known.
const (
	answeredYes = "allowed"
	answeredNo  = "denied"
)

// consult tells whom the CUSTOM policies have asked, and what it answers if it
// can be asked here: a policy in Rego.
func (j *journey) consult(s *Step, v *view, found *config.Destination, in *authz.Input) {
	if j.said().Providers == nil && len(j.custom()) > 0 {
		j.d.assume("there are no authorizers: there is no MeshConfig among the manifests, and no --mesh-config")
	}
	for q := found.Policies.Ask(in, nil); q != nil; q = found.Policies.Ask(in, q) {
		p := v.Mesh().Providers[q.Provider]
		if p == nil {
			return // the policies refuse by themselves
		}
		a := Answer{Provider: q.Provider, Kind: p.Kind.String(), Rule: q.ID, Answer: "not known: it would be asked"}
		said, known := j.r.Answers[q.Provider]
		switch {
		case known && said:
			a.Answer = answeredYes
		case known:
			a.Answer, a.Status, a.details = answeredNo, 403, deniedByExt
		case p.Kind == authz.OPA && in.HTTP != nil && j.only == mesh.Key{}:
			j.opa(&a, p, in)
		}
		s.Asked = append(s.Asked, a)
		if a.Answer == answeredNo {
			s.Allowed, s.Status, s.Logged = false, a.Status, a.details
			return
		}
	}
}

// opa asks a policy in Rego.
func (j *journey) opa(a *Answer, p *authz.Provider, in *authz.Input) {
	r := opa.New(p, opa.Options{})
	defer r.Close()
	ctx, cancel := context.WithTimeout(j.ctx, p.Patience())
	defer cancel()
	answer, err := r.Ask(ctx, &extauthz.Request{Source: netip.AddrPortFrom(in.Source, 0), Dest: in.Dest, Peer: in.Peer, At: j.now, Head: in.HTTP})
	switch {
	case r.Status().Err != nil:
		a.Answer = "not known: " + r.Status().Err.Error()
	case err != nil && p.FailOpen:
		a.Answer = answeredYes
	case err != nil:
		a.Answer, a.Status, a.details = answeredNo, p.Refusal(), failedExt
		j.d.assume("the policy of %s fails: %s", p.Name, err)
	case answer.Allowed:
		a.Answer = answeredYes
		in.HTTP.Fields = extauthz.Apply(in.HTTP.Fields, answer.Edits)
	default:
		a.Answer, a.Status, a.details = answeredNo, answer.Status, deniedByExt
	}
}

// token verifies the tokens of the request as the waypoint would.
func (j *journey) token(s *Step, v *view, found *config.Destination, in *authz.Input) error {
	token, err := j.r.trusted(words(v.RequestAuthentications()))
	if err != nil {
		return err
	}
	if token != nil {
		in.Token = token
		s.Token = &Token{Valid: true, Trusted: true, Principal: token.Issuer + "/" + token.Subject}
		if found.Tokens == nil {
			j.d.assume("the JWT is valid, although no RequestAuthentication is attached to say so")
		}
		return nil
	}
	if found.Tokens == nil {
		if j.r.Token != "" {
			s.Token = &Token{Reason: "no RequestAuthentication is attached"}
		}
		return nil
	}
	res := found.Tokens.Check(j.now, in.HTTP, j.r.Keys, nil)
	in.Token = res.Token
	switch {
	case !res.Allowed:
		s.Token = &Token{Reason: res.Reason.String()}
		if res.Policy != nil {
			s.Token.Policy = res.Policy.Namespace + "/" + res.Policy.Name
		}
		if res.Reason == jwt.KeysNotFetched {
			s.Token.Reason += ": give the keys with --jwks, or take the token as valid with --trust-jwt"
		}
		if s.Allowed {
			s.Allowed, s.Status, s.Logged = false, res.Reason.Status(), res.Details()
		}
	case res.Token != nil:
		s.Token = &Token{Valid: true, Principal: res.Token.Issuer + "/" + res.Token.Subject}
		res.Apply(in.HTTP)
	}
	return nil
}

// words returns the claims that policies say are lists of words.
func words(policies []*jwt.RequestAuthentication) (out []string) {
	for _, p := range policies {
		for i := range p.Rules {
			out = append(out, p.Rules[i].SpaceDelimitedClaims...)
		}
	}
	return out
}
