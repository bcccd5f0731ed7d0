// Package telemetry says what happened: in metrics, in access logs, in spans
// and in the program's own log.
//
// It receives facts. The data path owns a record, [HTTP] or [TCP], fills in its
// fields as it learns them, and hands it over: an exchange once, when it is
// over; a connection when it opens, every few seconds, and when it closes. What
// is made of a record is decided here and nowhere else: no other package names
// a metric, a log field or a span. Telemetry never blocks and never fails a
// request; when it cannot keep up it loses lines, and counts them.
//
// # Metrics
//
// With the labels of both ends (workload, namespace, canonical service and
// revision, app and version, principal, cluster), of the service and of the
// outcome, as Istio has them:
//
//	istio_requests_total                      waypoint: exchanges
//	istio_request_duration_milliseconds       waypoint
//	istio_request_bytes                       waypoint: heads and framing included
//	istio_response_bytes                      waypoint
//	istio_request_messages_total              waypoint: gRPC, without outcome
//	istio_response_messages_total             waypoint
//	istio_tcp_connections_opened_total        both
//	istio_tcp_connections_closed_total        both, by response flag
//	istio_tcp_connections_failed_total        ztunnel, by response flag
//	istio_tcp_received_bytes_total            both: from the client
//	istio_tcp_sent_bytes_total                both: to the client
//
// Without:
//
//	istio_build                               both
//	istio_tcp_sockets_open                    ztunnel: connections; at the destination tunnels, where
//	                                          Istio's counts the HBONE connections that they share
//	istio_on_demand_dns_total                 ztunnel: connections to workloads known by name only
//	workload_manager_active_proxy_count       ztunnel, and its three siblings
//	istio_dns_requests_total                  ztunnel: questions in DNS, by who asks, type and
//	                                          protocol; and, of those that were forwarded,
//	                                          istio_dns_upstream_requests_total, …_failures_total
//	                                          and …_request_duration_seconds
//	process_*, go_*                           both
//	waystone_config_rejected_resources        both, and the rest of Readings
//	waystone_hbone_handshake_failures_total   both
//	waystone_authz_denied_total               both: what policy refused, by policy and rule
//	waystone_authz_dry_run_total              both: what dry-run policies would have done
//	waystone_authz_trial_total                both: what one would do in another's place
//	waystone_loop_busy_seconds_total          both, and three more of loops
//	waystone_log_dropped_lines_total          both
//	waystone_telemetry_series                 both
//	waystone_telemetry_series_overflow_total  both
//
// Series are bounded: see [Options.MaxSeries] and [Options.Live].
//
// Where no rule matched, the labels policy_namespace, policy and rule are "none".
// The reasons of a refusal are those of [Reason]; the result of a trial is same,
// would_allow or would_deny.
//
// # Logs
//
//	access log    waypoint: a line for each exchange and opaque tunnel; Istio's
//	              24 keys in JSON, or its default text
//	access        ztunnel: scope "access" of the program's log; "connection
//	              opened" at debug, "connection failed", "connection complete";
//	              the last, of a connection that lasted for a minute or longer,
//	              says how the network was, after ztunnel's own keys:
//	              tcp.rtt, tcp.min_rtt, tcp.retransmits, tcp.lost
//	steps         ztunnel: scopes ztunnel::proxy::outbound and ::inbound, the
//	              lines that ztunnel wrote in ambient's first year
//	dns           ztunnel: scope "dns", each question, at debug
//	everything    what the programs say about themselves: [Log]
//
// The access log may have further keys, after its own and in the order in which
// [Options.Keys] names them; in text they are columns of the form key=value. What
// is not known is null, or "-" in text.
//
//	source_principal        the client's identity: spiffe://…
//	source_workload         what owns the client's pod
//	source_namespace        the client's, of its identity if it has one
//	destination_workload    what owns the pod of the endpoint that was chosen
//	destination_namespace   its namespace
//	destination_principal   its identity: spiffe://…
//	request_principal       iss/sub of the valid JWT
//	policy                  the rule that decided: ns[…]-policy[…]-rule[…]
//	explanation             why it was refused, in a line; in text, in quotes
//	dry_run_allow           what the ALLOW policies under dry run would have done:
//	                        allowed or denied, and after a colon the rule, if any
//	dry_run_deny            likewise, the DENY policies
//	trials                  candidates compared with what they are to replace: a list
//	                        of {policy, replaces, result}, in text policy:result with
//	                        commas; same, would_allow or would_deny
//	trace_id                the trace, 32 hexadecimal digits
//	upstream_attempts       how often the request was sent to an endpoint, a number;
//	                        null of what is not HTTP
//
// With [OTLPOptions] the lines of the access log go to an OTLP receiver as well:
// log records of scope "access" with the fields of the JSON line as attributes, and
// beside them those that OpenTelemetry has names for: http.request.method, url.path,
// http.response.status_code, client.address, server.address and others of an
// exchange; source.address, destination.address, network.transport and error.type,
// which is the response flag, of a node tunnel's connection. Of a traced exchange
// they name the span; of a tunnel, the trace that both node tunnels log. Records
// that the receiver is too slow for, or does not take, are lost, and counted with
// lines: log="otlp", and reason full, error or rejected.
//
// # Traces
//
// Context is taken in as W3C traceparent, b3 or X-B3-*, and passed on in the
// same. Spans, one for each exchange at a waypoint, are those of Envoy, and go to
// an OTLP collector when one is configured. What dry-run policies would have done
// is in them as Istio has it: istio.authorization.dry_run.allow_policy.name and
// .result, and those of deny_policy.
package telemetry
