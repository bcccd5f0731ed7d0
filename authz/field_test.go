package authz_test

import (
	"fmt"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/waystone-mesh/waystone/authz/authztest"
)

// Fields of a policy are told in the order in which they are written, with what
// is needed to see them.
func TestFieldsAreAsWritten(t *testing.T) {
	policies, err := authztest.Read([]byte(`
metadata: {name: p}
spec:
  rules:
  - from:
    - source: {principals: [a], notNamespaces: [b], serviceAccounts: [c], trustDomains: [d]}
    - source: {requestPrincipals: [e], notIpBlocks: [10.0.0.1], remoteIpBlocks: [10.0.0.2]}
    to: [{operation: {hosts: [f], notPorts: ["80"], methods: [GET, PUT], notPaths: [/g]}}]
    when:
    - {key: source.ip, values: [10.0.0.3], notValues: [10.0.0.4]}
    - {key: "request.headers[X]", values: [h]}
    - {key: "request.auth.claims[i]", notValues: [j]}
    - {key: no.such.key, values: [k]}
  - {}
  - when: [{key: connection.sni, values: [l]}]
`), yaml.UnmarshalStrict)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range policies[0].Fields() {
		got = append(got, fmt.Sprintf("%d %s %s %v not=%t http=%t token=%t node=%t", f.Rule, f.Path, f.Name, f.Values, f.Not, f.HTTP, f.Token, f.Node))
	}
	want := []string{
		"0 spec.rules[0].from[0].source.principals principals [a] not=false http=false token=false node=true",
		"0 spec.rules[0].from[0].source.notNamespaces namespaces [b] not=true http=false token=false node=true",
		"0 spec.rules[0].from[0].source.serviceAccounts serviceAccounts [c] not=false http=false token=false node=true",
		"0 spec.rules[0].from[0].source.trustDomains trustDomains [d] not=false http=false token=false node=false",
		"0 spec.rules[0].from[1].source.requestPrincipals requestPrincipals [e] not=false http=true token=true node=false",
		"0 spec.rules[0].from[1].source.notIpBlocks ipBlocks [10.0.0.1] not=true http=false token=false node=true",
		"0 spec.rules[0].from[1].source.remoteIpBlocks remoteIpBlocks [10.0.0.2] not=false http=false token=false node=false",
		"0 spec.rules[0].to[0].operation.hosts hosts [f] not=false http=true token=false node=false",
		"0 spec.rules[0].to[0].operation.notPorts ports [80] not=true http=false token=false node=true",
		"0 spec.rules[0].to[0].operation.methods methods [GET PUT] not=false http=true token=false node=false",
		"0 spec.rules[0].to[0].operation.notPaths paths [/g] not=true http=true token=false node=false",
		"0 spec.rules[0].when[0].values source.ip [10.0.0.3] not=false http=false token=false node=true",
		"0 spec.rules[0].when[0].notValues source.ip [10.0.0.4] not=true http=false token=false node=true",
		"0 spec.rules[0].when[1].values request.headers[X] [h] not=false http=true token=false node=false",
		"0 spec.rules[0].when[2].notValues request.auth.claims[i] [j] not=true http=true token=true node=false",
		"2 spec.rules[2].when[0].values connection.sni [l] not=false http=false token=false node=false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
