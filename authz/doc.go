// Package authz decides whether a request may pass: it compiles
// AuthorizationPolicy to one tree of and, or, not and matchers, and asks it.
//
// The policies attached to one destination make a [Set]. Its verdict is the
// first of these that applies:
//
//	1  CUSTOM  a rule matches                     its provider is asked: refused if it says
//	                                              no, else it goes on
//	2  AUDIT   a rule matches                     the verdict is marked, and it goes on
//	3  DENY    a rule matches                     refused; that rule is named
//	4  ALLOW   there is no ALLOW policy           allowed
//	5          a rule matches                     allowed; that rule is named
//	6          none does                          refused; "none" is named
//
// A policy matches if one of its rules does. A rule matches if one of its from,
// one of its to and all of its when do; what is absent does not restrict. So
// an ALLOW policy without rules refuses everything, and the rule {} matches
// everything. Of several rules that match, the first by name is named, as in
// Envoy.
//
// Fields of one source or operation are all to hold; values of one field are
// alternatives; a notField holds if none of its values match. An attribute that
// the request lacks matches no value, so its notField holds.
//
// What a JWT says counts if the JWT is valid: whoever verifies it hands over a
// [Token]. Without one no request principal and no claim is there.
//
// What is not HTTP has no HTTP attributes, those of a JWT among them, and is judged as Istio judges a TCP
// port: an ALLOW rule that asks for one is dropped, and less is allowed; a DENY
// or AUDIT rule loses the field, and more is denied. A DENY rule on paths alone
// thus refuses all connections that are not HTTP.
//
// The node tunnel (Options.L4) sees connections only, and of their attributes
// the ones that Istio's workload API can express: principals, namespaces,
// serviceAccounts, ipBlocks and ports; under when, source.ip,
// source.namespace, source.principal, destination.ip and destination.port. The
// actions are ALLOW and DENY. An ALLOW rule with any other attribute is
// dropped. A DENY rule loses it; where nothing is left of a source, operation
// or condition, that source, operation or condition matches nothing.
//
// A policy under dry run changes nothing, and the verdict says what those of its
// action would have said. One that names another to replace is tried as well: the
// verdict says what it would be with the one in the other's place. See [Trial].
//
// [Set.Explain] says why: which policies apply, and of a rule that does not match
// what was wanted and what was there. [Set.Brief] says it in a line.
//
// Package lint finds policies that do not do what they seem to.
//
// Nothing here asks an authorizer, fetches a key or blocks: [Set.Check] and
// [Set.Ask] say whom to ask. See package rego for OPA, which serves as the oracle
// of this package's tests.
package authz
