package waystone.authz

trust_domains := ["cluster.local"]

# There is an ALLOW policy.
restricted := true

# AuthorizationPolicy default/viewers, spec.rules[0]
allow contains "ns[default]-policy[viewers]-rule[0]" if p0_rule0

p0_rule0_http_from if {
	any_principal(["cluster.local/ns/default/sa/sleep"])
}

p0_rule0_http_to if {
	any_method(["GET"])
	any_path_template(["^/reviews/[a-zA-Z0-9._~%!$&'()+,;:@=-]+$", "^/health$"])
}

p0_rule0_http_to if {
	any_port([9090])
}

p0_rule0_http_when0 if {
	not any_header("x-test", ["1"])
}

p0_rule0 if {
	input.http
	p0_rule0_http_from
	p0_rule0_http_to
	p0_rule0_http_when0
}

p0_rule0 if {
	not input.http
	false # it allows by what cannot be seen
}

# AuthorizationPolicy default/no-admin, spec.rules[0]
deny contains "ns[default]-policy[no-admin]-rule[0]" if p1_rule0

p1_rule0_http_to if {
	any_path(["/admin*"])
}

p1_rule0 if {
	input.http
	p1_rule0_http_to
}

p1_rule0_tcp_to if {
	true
}

p1_rule0 if {
	not input.http
	p1_rule0_tcp_to
}

# AuthorizationPolicy default/no-admin, spec.rules[1]
deny contains "ns[default]-policy[no-admin]-rule[1]" if p1_rule1

p1_rule1_http_from if {
	not any_source_ip(["10.0.0.0/8", "192.168.1.1/32", "::1/128"])
}

p1_rule1_http_when0 if {
	any_account(["default/guest"])
}

p1_rule1 if {
	input.http
	p1_rule1_http_from
	p1_rule1_http_when0
}

p1_rule1_tcp_from if {
	not any_source_ip(["10.0.0.0/8", "192.168.1.1/32", "::1/128"])
}

p1_rule1_tcp_when0 if {
	any_account(["default/guest"])
}

p1_rule1 if {
	not input.http
	p1_rule1_tcp_from
	p1_rule1_tcp_when0
}

