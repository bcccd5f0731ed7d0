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
//	istio_tcp_sockets_open                    ztunnel
//	workload_manager_active_proxy_count       ztunnel, and its three siblings
//	process_*, go_*                           both
//	waystone_config_rejected_resources        both, and the rest of Readings
//	waystone_hbone_handshake_failures_total   both
//	waystone_loop_busy_seconds_total          both, and three more of loops
//	waystone_log_dropped_lines_total          both
//	waystone_telemetry_series                 both
//	waystone_telemetry_series_overflow_total  both
//
// Series are bounded: see [Options.MaxSeries] and [Options.Live].
//
// # Logs
//
//	access log    waypoint: a line for each exchange and opaque tunnel; Istio's
//	              24 keys in JSON, or its default text
//	access        ztunnel: scope "access" of the program's log; "connection
//	              opened" at debug, "connection complete", "connection failed"
//	steps         ztunnel: scopes ztunnel::proxy::outbound and ::inbound, the
//	              lines that ztunnel wrote in ambient's first year
//	everything    what the programs say about themselves: [Log]
//
// # Traces
//
// Context is taken in as W3C traceparent, b3 or X-B3-*, and passed on in the
// same. Spans, one for each exchange at a waypoint, are those of Envoy, and go to
// an OTLP collector when one is configured.
package telemetry
