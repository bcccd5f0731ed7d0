package envoy.authz

default allow := false

allow if input.parsed_path[0] in data.roles.open
