package hbone

import (
	"strings"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// Baggage is what the baggage field of a CONNECT says about the source
// workload, and that of a 200 about the destination. It feeds telemetry and
// nothing else: the peer wrote it, and only its certificate is proof.
type Baggage struct {
	Cluster   string // k8s.cluster.name
	Namespace string // k8s.namespace.name
	Kind      string // "deployment", "cronjob", "pod" or "job": of k8s.<kind>.name
	Workload  string // k8s.<kind>.name
	Service   string // service.name: the canonical name
	Revision  string // service.version: the canonical revision
	Region    string // cloud.region
	Zone      string // cloud.availability_zone
}

// BaggageOf returns what the mesh knows about w.
func BaggageOf(w *mesh.Workload) Baggage {
	kind, name := w.OwnerKind, w.OwnerName
	if name == "" {
		kind, name = "pod", w.Name
	}
	return Baggage{
		Cluster: w.ClusterID, Namespace: w.Namespace, Kind: strings.ToLower(kind), Workload: name,
		Service: w.CanonicalName, Revision: w.CanonicalRevision,
		Region: w.Locality.Region, Zone: w.Locality.Zone,
	}
}

// String returns b as a field value. Members that are empty are left out, and
// so are those that the field could not carry: nothing is percent-encoded,
// since other node tunnels do not decode.
func (b Baggage) String() string {
	var s strings.Builder
	put := func(key, value string) {
		if !plain(value) {
			return
		}
		if s.Len() > 0 {
			s.WriteByte(',')
		}
		s.WriteString(key)
		s.WriteByte('=')
		s.WriteString(value)
	}
	put("k8s.cluster.name", b.Cluster)
	put("k8s.namespace.name", b.Namespace)
	if key := kindKey(b.Kind); key != "" {
		put(key, b.Workload)
	}
	put("service.name", b.Service)
	put("service.version", b.Revision)
	put("cloud.region", b.Region)
	put("cloud.availability_zone", b.Zone)
	return s.String()
}

func kindKey(kind string) string {
	switch kind {
	case "deployment":
		return "k8s.deployment.name"
	case "cronjob":
		return "k8s.cronjob.name"
	case "pod":
		return "k8s.pod.name"
	case "job":
		return "k8s.job.name"
	}
	return ""
}

// ParseBaggage reads a baggage field value. What it does not know, or cannot
// read, it leaves out: nothing depends on it. The strings are views of s.
func ParseBaggage(s string) Baggage {
	var b Baggage
	for member := range strings.SplitSeq(s, ",") {
		member, _, _ = strings.Cut(member, ";") // W3C Baggage, section 3.3.1.3: properties
		key, value, ok := strings.Cut(member, "=")
		key, value = strings.Trim(key, " \t"), strings.Trim(value, " \t")
		if !ok || !plain(value) {
			continue
		}
		switch key {
		case "k8s.cluster.name":
			b.Cluster = value
		case "k8s.namespace.name":
			b.Namespace = value
		case "k8s.deployment.name", "k8s.cronjob.name", "k8s.pod.name", "k8s.job.name":
			b.Kind, b.Workload = key[len("k8s."):len(key)-len(".name")], value
		case "service.name":
			b.Service = value
		case "service.version":
			b.Revision = value
		case "cloud.region":
			b.Region = value
		case "cloud.availability_zone":
			b.Zone = value
		}
	}
	return b
}

// plain reports whether s may be a member's value as it is (W3C Baggage,
// section 3.3.1.2: baggage-octet) and is not empty.
func plain(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c <= ' ', c >= 0x7f, c == '"', c == ',', c == ';', c == '\\':
			return false
		}
	}
	return s != ""
}
