# In the manner of the policies that OPA's plugin for Envoy is given: guests read,
# administrators do what they like, and who is refused is told why.
package envoy.authz

import rego.v1

import input.attributes.request.http as request

default allow := {
	"allowed": false,
	"http_status": 403,
	"headers": {"x-reason": "no rule allows it"},
	"body": "refused",
}

allow := {
	"allowed": true,
	"headers": {"x-user": claims.sub, "x-roles": claims.roles},
	"request_headers_to_remove": ["authorization"],
	"response_headers_to_add": {"x-decided-by": "opa"},
} if {
	claims.sub
	permitted
}

permitted if "admin" in claims.roles

permitted if {
	"guest" in claims.roles
	request.method == "GET"
	input.parsed_path[0] == "people"
	not input.parsed_query.secret
}

permitted if {
	request.method == "POST"
	input.parsed_body.owner == claims.sub
	not input.truncated_body
}

claims := payload if {
	[_, encoded] := split(request.headers.authorization, " ")
	[_, payload, _] := io.jwt.decode(encoded)
}
