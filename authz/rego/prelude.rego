package waystone.authz

# What the rules below are written with. Each any_x holds if the request's x
# matches one of the values; it does not hold if the request has no x.

any_principal(values) if {
	some value in values
	some p in spellings(value)
	wildcard(input.principal, p)
}

# The namespace and the account are found in the SPIFFE ID by the regular
# expressions that Istio gives to Envoy.
any_namespace(values) if {
	some value in values
	regex.match(concat("", ["^.*/ns/", replace(value, "*", ".*"), "/.*$"]), input.uri)
}

# The node tunnel compares the namespace itself.
any_node_namespace(values) if {
	some value in values
	wildcard(input.namespace, value)
}

any_account(values) if {
	some value in values
	[ns, sa] := split(value, "/")
	regex.match(concat("", ["^spiffe://.+/ns/", ns, "/(.+/|)sa/", sa, "(/.+)?$"]), input.uri)
}

any_trust_domain(values) if {
	some value in values
	some td in domains(value)
	regex.match(concat("", ["^spiffe://", replace(td, "*", "[^/]*"), "/.*$"]), input.uri)
}

any_source_ip(blocks) if {
	some block in blocks
	net.cidr_contains(block, input.source_ip)
}

any_destination_ip(blocks) if {
	some block in blocks
	net.cidr_contains(block, input.destination_ip)
}

any_port(ports) if input.port in ports

any_sni(values) if {
	some value in values
	wildcard(input.sni, value)
}

any_host(values) if {
	some value in values
	wildcard(lower(input.http.host), lower(value))
}

any_method(values) if {
	some value in values
	wildcard(input.http.method, value)
}

any_path(values) if {
	some value in values
	wildcard(input.http.path, value)
}

# Paths with templates come as regular expressions.
any_path_template(expressions) if {
	some expression in expressions
	regex.match(expression, input.http.path)
}

any_header(name, values) if {
	some value in values
	wildcard(input.http.headers[name], value)
}

# Of a request principal the issuer is what is before the last slash. "*" is what
# is not empty.
any_request_principal(values) if {
	some value in values
	request_principal(value)
}

request_principal("*") if {
	filled(input.token.iss, "*")
	filled(input.token.sub, "*")
}

request_principal(value) if {
	parts := issuer_and_subject(value)
	startswith(value, "*")
	issuer_ends(parts[0])
	input.token.sub == parts[1]
}

request_principal(value) if {
	parts := issuer_and_subject(value)
	not startswith(value, "*")
	input.token.iss == parts[0]
	endswith(value, "*")
	subject_begins(parts[1])
}

request_principal(value) if {
	parts := issuer_and_subject(value)
	not startswith(value, "*")
	not endswith(value, "*")
	input.token.iss == parts[0]
	input.token.sub == parts[1]
}

request_principal(value) if {
	not contains(value, "/")
	not startswith(value, "*")
	not endswith(value, "*")
	input.token.iss == value
	input.token.sub == ""
}

request_principal(value) if {
	value != "*"
	not contains(value, "/")
	startswith(value, "*")
	filled(input.token.iss, "*")
	endswith(input.token.sub, substring(value, 1, -1))
}

request_principal(value) if {
	value != "*"
	not contains(value, "/")
	not startswith(value, "*")
	endswith(value, "*")
	filled(input.token.sub, "*")
	wildcard(input.token.iss, value)
}

issuer_ends("*") if filled(input.token.iss, "*")

issuer_ends(value) if {
	value != "*"
	endswith(input.token.iss, substring(value, 1, -1))
}

subject_begins("*") if filled(input.token.sub, "*")

subject_begins(value) if {
	value != "*"
	startswith(input.token.sub, substring(value, 0, count(value) - 1))
}

issuer_and_subject(value) := [concat("/", array.slice(parts, 0, count(parts) - 1)), parts[count(parts) - 1]] if {
	parts := split(value, "/")
	count(parts) > 1
}

# A claim is a string, or a list of which any string will do; "*" is one that is
# not empty.
any_claim(path, values) if {
	some value in values
	some text in claim_texts(object.get(input.token.claims, path, null))
	filled(text, value)
}

claim_texts(claim) := {claim} if is_string(claim)

claim_texts(claim) := {item | some item in claim; is_string(item)} if is_array(claim)

filled(text, value) if {
	text != ""
	wildcard(text, value)
}

# "*" is anything, "*x" a suffix, "x*" a prefix.

wildcard(_, "*")

wildcard(text, value) if {
	value != "*"
	startswith(value, "*")
	endswith(text, substring(value, 1, -1))
}

wildcard(text, value) if {
	not startswith(value, "*")
	endswith(value, "*")
	startswith(text, substring(value, 0, count(value) - 1))
}

wildcard(text, value) if {
	not startswith(value, "*")
	not endswith(value, "*")
	text == value
}

# A whole principal whose trust domain is ours is meant in each of our domains.

spellings(principal) := {p | some td in trust_domains; p := respelt(principal, td)} if ours(principal)

spellings(principal) := {principal} if not ours(principal)

ours(principal) if {
	parts := split(principal, "/")
	count(parts) == 5
	parts[0] == "cluster.local"
}

ours(principal) if {
	parts := split(principal, "/")
	count(parts) == 5
	parts[0] in trust_domains
}

ours(principal) if {
	parts := split(principal, "/")
	count(parts) == 5
	parts[0] != "*"
	startswith(parts[0], "*")
	some td in trust_domains
	endswith(td, substring(parts[0], 1, -1))
}

ours(principal) if {
	parts := split(principal, "/")
	count(parts) == 5
	not startswith(parts[0], "*")
	endswith(parts[0], "*")
	some td in trust_domains
	startswith(td, substring(parts[0], 0, count(parts[0]) - 1))
}

respelt(principal, td) := principal if {
	[head, _] := [split(principal, "/")[0], td]
	startswith(head, "*")
	endswith(td, substring(head, 1, -1))
} else := concat("/", array.concat([td], array.slice(split(principal, "/"), 1, 5)))

# A trust domain of ours likewise, but here "cluster.local" is a name like any other.

domains(value) := {td | some td in trust_domains} if value in trust_domains

domains(value) := {value} if not value in trust_domains

# What the rules are added to. A CUSTOM rule whose provider cannot be asked is one
# of refuse; of the others, custom has the provider and the rule.

refuse contains "" if false

custom contains ["", ""] if false

audit contains "" if false

deny contains "" if false

allow contains "" if false

dry_deny contains "" if false

dry_allow contains "" if false

default restricted := false

# The order of evaluation. Of several rules that match, the first by name
# counts.

default verdict := {"allowed": false, "rule": "none"}

verdict := {"allowed": false, "rule": min(refuse)} if count(refuse) > 0

verdict := {"allowed": false, "rule": min(deny)} if {
	count(refuse) == 0
	count(deny) > 0
}

verdict := {"allowed": true, "rule": ""} if {
	count(refuse) == 0
	count(deny) == 0
	not restricted
}

verdict := {"allowed": true, "rule": min(allow)} if {
	count(refuse) == 0
	count(deny) == 0
	restricted
	count(allow) > 0
}

# Before that, each provider is asked by the first of its rules that matches.
questions := [min(rules) |
	some provider in sort({provider | some [provider, _] in custom})
	rules := {id | some [p, id] in custom; p == provider}
]

answer := {
	"ask": questions,
	"verdict": verdict,
	"audit": count(audit) > 0,
	"dry_deny": first(dry_deny),
	"dry_allow": first(dry_allow),
}

first(ids) := min(ids) if count(ids) > 0

first(ids) := "" if count(ids) == 0
