# In version 0 of the language, as most policies for Envoy are published.
package istio.authz

import input.attributes.request.http as http_request
import input.parsed_path

default allow = false

allow {
	parsed_path[0] == "health"
	http_request.method == "GET"
}

allow {
	required_roles[r]
	roles_for_user[r]
}

roles_for_user[r] {
	r := data.roles.users[user_name][_]
}

required_roles[r] {
	perm := data.roles.permissions[r][_]
	perm.method == http_request.method
	perm.path == http_request.path
}

user_name = parsed {
	[_, encoded] := split(http_request.headers.authorization, " ")
	[parsed, _] := split(base64url.decode(encoded), ":")
}
