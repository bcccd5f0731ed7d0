package xds

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/waystone-mesh/waystone/internal/xds/workloadapi"
)

// A wireWorkload is an istio.workload.Workload of which only the outermost fields
// have been read. All are views of the wire.
//
// There are very many workloads, and most of what one says another has said
// before: that is recognized by its bytes, and read by package proto only the
// first time. What is left of the work is a tenth, and of the garbage nothing.
type wireWorkload struct {
	uid, name, namespace, serviceAccount, trustDomain, clusterID, network, node, hostname []byte
	canonicalName, canonicalRevision, workloadName                                        []byte

	tunnel       workloadapi.TunnelProtocol
	kind         workloadapi.WorkloadType
	status       workloadapi.WorkloadStatus
	networkMode  workloadapi.NetworkMode
	nativeTunnel bool

	addresses, policies, services [][]byte // of services: the entries of the map

	// Messages; nil: there is none.
	waypoint, gateway, appTunnel, locality, capacity []byte
}

// read reads a workload. It keeps what w has of slices.
func (w *wireWorkload) read(wire []byte) error {
	*w = wireWorkload{addresses: w.addresses[:0], policies: w.policies[:0], services: w.services[:0]}
	for len(wire) > 0 {
		n, form, size := protowire.ConsumeTag(wire)
		if size < 0 {
			return protowire.ParseError(size)
		}
		wire = wire[size:]
		switch form {
		case protowire.BytesType:
			var v []byte
			if v, size = protowire.ConsumeBytes(wire); size >= 0 {
				w.bytes(n, v)
			}
		case protowire.VarintType:
			var x uint64
			if x, size = protowire.ConsumeVarint(wire); size >= 0 {
				w.number(n, x)
			}
		default:
			size = protowire.ConsumeFieldValue(n, form, wire)
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		wire = wire[size:]
	}
	return nil
}

// bytes reads a field that has a length. A message that comes twice is what its
// parts say together, as protobuf has it.
func (w *wireWorkload) bytes(n protowire.Number, v []byte) {
	switch n {
	case 1:
		w.name = v
	case 2:
		w.namespace = v
	case 3:
		w.addresses = append(w.addresses, v)
	case 4:
		w.network = v
	case 6:
		w.trustDomain = v
	case 7:
		w.serviceAccount = v
	case 8:
		w.waypoint = join2(w.waypoint, v)
	case 9:
		w.node = v
	case 10:
		w.canonicalName = v
	case 11:
		w.canonicalRevision = v
	case 13:
		w.workloadName = v
	case 16:
		w.policies = append(w.policies, v)
	case 18:
		w.clusterID = v
	case 19:
		w.gateway = join2(w.gateway, v)
	case 20:
		w.uid = v
	case 21:
		w.hostname = v
	case 22:
		w.services = append(w.services, v)
	case 23:
		w.appTunnel = join2(w.appTunnel, v)
	case 24:
		w.locality = join2(w.locality, v)
	case 27:
		w.capacity = join2(w.capacity, v)
	}
}

// number reads a field that is a number.
func (w *wireWorkload) number(n protowire.Number, x uint64) {
	switch n {
	case 5:
		w.tunnel = workloadapi.TunnelProtocol(x)
	case 12:
		w.kind = workloadapi.WorkloadType(x)
	case 14:
		w.nativeTunnel = x != 0
	case 17:
		w.status = workloadapi.WorkloadStatus(x)
	case 25:
		w.networkMode = workloadapi.NetworkMode(x)
	}
}

// join2 returns a message that says what two say, of which there may be only one.
func join2(a, b []byte) []byte {
	if a == nil {
		return b
	}
	return append(a[:len(a):len(a)], b...)
}

// readAddress reads which of its two an istio.workload.Address is.
func readAddress(wire []byte) (workload, service []byte, err error) {
	err = eachField(wire, func(n protowire.Number, v []byte) error {
		switch n {
		case 1:
			workload, service = join2(workload, v), nil
		case 2:
			workload, service = nil, join2(service, v)
		}
		return nil
	})
	if err == nil && workload == nil && service == nil {
		err = errors.New("is neither a workload nor a service")
	}
	return workload, service, err
}
