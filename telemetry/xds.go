package telemetry

import "github.com/prometheus/client_golang/prometheus"

// XDS is what has happened on the stream that the configuration comes by. Which
// endings and types there are does not change.
type XDS struct {
	Connected bool // the control plane has answered on the stream that is open
	Endings   []XDSEnding
	Types     []XDSType
}

// An XDSEnding is how often streams have ended for a reason: ConnectionError,
// Error, Reconnect or Complete.
type XDSEnding struct {
	Reason string
	Count  uint64
}

// An XDSType is what has come of one type of resource.
type XDSType struct {
	URL             string
	Messages, Bytes uint64 // responses
	Rejected        uint64 // responses of which something was refused
	Resources       uint64 // known now
}

// xdsFamilies are those of the stream: ztunnel's, and three of ours.
func xdsFamilies(read func() XDS) []prometheus.Collector {
	list := []prometheus.Collector{
		gauge("waystone_xds_connected", "Whether the control plane has answered on the stream that is open.", func() float64 {
			if read().Connected {
				return 1
			}
			return 0
		}),
	}
	now := read()
	for i, e := range now.Endings {
		list = append(list, countWith("istio_xds_connection_terminations_total", "Streams from the control plane that have ended, by the reason.",
			prometheus.Labels{"reason": e.Reason}, func() uint64 { return read().Endings[i].Count }))
	}
	for i := range now.Types {
		of := func() *XDSType { return &read().Types[i] }
		url := prometheus.Labels{"url": now.Types[i].URL}
		list = append(list,
			countWith("istio_xds_message_total", "Responses from the control plane, by type.", url, func() uint64 { return of().Messages }),
			countWith("istio_xds_message_bytes_total", "Bytes of these responses.", url, func() uint64 { return of().Bytes }),
			countWith("waystone_xds_rejected_messages_total", "Responses of which something was refused (NACK), by type.", url, func() uint64 { return of().Rejected }),
			gaugeWith("waystone_xds_resources", "Resources that the control plane has told us of, by type.", url, func() float64 { return float64(of().Resources) }),
		)
	}
	return list
}
