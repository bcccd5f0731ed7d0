package telemetry

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"

	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// unknown is what Istio writes for what is not known. A label is never empty:
// to Prometheus that is absent, and Kiali then drops the series.
const unknown = "unknown"

// labels makes the labels of a key, sorted by name as client_golang wants them.
func (t *table) labels(k *key) []*dto.LabelPair {
	var l labelSet
	if k.overflow {
		l.all("overflow")
	} else {
		l.source(k, t.cluster)
		l.dest(k, t.cluster)
		l.service(k)
		l.locality(k)
	}
	l.add("reporter", k.reporter.String())
	if k.kind != messages {
		l.outcome(k)
	}
	slices.SortFunc(l, func(a, b *dto.LabelPair) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return l
}

// A labelSet is the labels of a series in the making.
type labelSet []*dto.LabelPair

func (l *labelSet) add(name, value string) {
	value = strings.ToValidUTF8(value, "\ufffd")
	*l = append(*l, &dto.LabelPair{Name: &name, Value: &value})
}

// known is add, with unknown for "".
func (l *labelSet) known(name, value string) { l.add(name, cmp.Or(value, unknown)) }

// source adds the labels of the client. Its namespace is what its certificate
// says, if it has one.
func (l *labelSet) source(k *key, cluster string) {
	var name, canonical, revision string
	namespace := k.sourceID.Namespace
	if k.reporter == ByWaypoint {
		revision = "latest" // as Envoy has it, even of an unknown client
	}
	home := ""
	if w := k.source; w != nil {
		name, canonical, revision, home = workloadName(w), canonicalName(w), canonicalRevision(w), w.ClusterID
		if namespace == "" {
			namespace = w.Namespace
		}
	}
	if namespace != "" {
		// Kiali drops a series whose source has a namespace and no cluster.
		home = cmp.Or(home, cluster)
	}
	l.end("source", name, namespace, canonical, revision, principal(k.sourceID), home)
}

// dest adds the labels of the destination: all unknown together when no
// endpoint was chosen.
func (l *labelSet) dest(k *key, cluster string) {
	w := k.dest
	if w == nil {
		l.end("destination", "", "", "", "", principal(k.destID), "")
		return
	}
	id := k.destID
	if id.IsZero() && k.reporter == ByWaypoint && w.TrustDomain != "" {
		id = w.Identity()
	}
	l.end("destination", workloadName(w), w.Namespace, canonicalName(w), canonicalRevision(w),
		principal(id), cmp.Or(w.ClusterID, cluster))
}

func (l *labelSet) end(side, name, namespace, canonical, revision, principal, cluster string) {
	l.known(side+"_workload", name)
	l.known(side+"_workload_namespace", namespace)
	l.known(side+"_principal", principal)
	l.known(side+"_app", canonical)
	l.known(side+"_version", revision)
	l.known(side+"_canonical_service", canonical)
	l.known(side+"_canonical_revision", revision)
	l.known(side+"_cluster", cluster)
}

func (l *labelSet) service(k *key) {
	host, name, namespace := k.serviceHost.Host, "", k.serviceHost.Namespace
	if s := k.service; s != nil {
		host, name, namespace = s.Hostname, s.Name, s.Namespace
	}
	if name == "" {
		name, _, _ = strings.Cut(host, ".")
	}
	l.known("destination_service", host)
	l.known("destination_service_name", name)
	l.known("destination_service_namespace", namespace)
}

// locality adds where both ends are, for a tunnel that knows where one is.
func (l *labelSet) locality(k *key) {
	if k.reporter == ByWaypoint {
		return
	}
	var source, dest mesh.Locality
	if k.source != nil {
		source = k.source.Locality
	}
	if k.dest != nil {
		dest = k.dest.Locality
	}
	if source.Region == "" && dest.Region == "" {
		return
	}
	l.known("source_region", source.Region)
	l.known("source_zone", source.Zone)
	l.known("destination_region", dest.Region)
	l.known("destination_zone", dest.Zone)
}

// outcome adds how it went.
func (l *labelSet) outcome(k *key) {
	if k.kind == connections {
		l.add("request_protocol", "tcp")
	} else {
		protocol, status := "http", ""
		if k.grpc != 0 {
			protocol = "grpc"
		}
		if k.grpcStatus >= 0 {
			status = strconv.Itoa(int(k.grpcStatus))
		}
		l.add("request_protocol", protocol)
		l.add("response_code", strconv.Itoa(int(k.status)))
		l.add("grpc_response_status", status) // the one label that may be empty
	}
	l.add("response_flags", k.flag.String())
	l.add("connection_security_policy", security(k))
}

// security says whether the connection was mutually authenticated, in the word
// that each reporter has for "no".
func security(k *key) string {
	switch {
	case k.mtls:
		return "mutual_tls"
	case k.reporter == ByWaypoint:
		return "none"
	}
	return unknown
}

// all gives every label of both ends and of the service the same value.
func (l *labelSet) all(value string) {
	for _, side := range [...]string{"source", "destination"} {
		l.end(side, value, value, value, value, value, value)
	}
	l.add("destination_service", value)
	l.add("destination_service_name", value)
	l.add("destination_service_namespace", value)
}

func principal(id identity.ID) string { return id.String() }

// workloadName is Istio's workload_name: what owns the pod, or else the pod.
func workloadName(w *mesh.Workload) string { return cmp.Or(w.OwnerName, w.Name) }

func canonicalName(w *mesh.Workload) string { return cmp.Or(w.CanonicalName, workloadName(w)) }

func canonicalRevision(w *mesh.Workload) string { return cmp.Or(w.CanonicalRevision, "latest") }
