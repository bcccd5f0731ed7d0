package config

import (
	"net/netip"
	"slices"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A uidKey finds a workload by its UID.
type uidKey string

func (k uidKey) finds(d *Destination) bool { return d.Workload.UID == string(k) }

// A uidOf does among the states of workloads, some of which may be gone.
type uidOf string

func (k uidOf) finds(st *workloadState) bool { return st.uid == string(k) }

// An addressKey finds a workload by one of its addresses.
type addressKey mesh.Address

func (k addressKey) finds(d *Destination) bool { return isAt(d.Workload, k.Network, k.IP) }

// An addressOf does among their states.
type addressOf mesh.Address

func (k addressOf) finds(st *workloadState) bool { return isAt(st.workload, k.Network, k.IP) }

func isAt(w *mesh.Workload, network string, ip netip.Addr) bool {
	return w.Network == network && slices.Contains(w.Addresses, ip)
}

// An addressIndex says which workloads are at an address: nearly always one. It
// does what an index does, in a quarter of the memory.
type addressIndex struct {
	first *tableEdit[addressOf, workloadState]
	more  map[mesh.Address][]*workloadState // where there are several: all, in order of preference

	// dropped are the addresses at which there is one workload less since the last
	// publish. Where there is one more, or another version, that one is marked.
	dropped []mesh.Address
}

func newAddressIndex() addressIndex {
	return addressIndex{editTable(table[addressOf, workloadState]{}), map[mesh.Address][]*workloadState{}, nil}
}

// preferred returns the workload that is found at an address, or nil.
func (x *addressIndex) preferred(a mesh.Address) *workloadState { return x.first.get(addressOf(a)) }

// add puts a workload at an address that is one of its own.
func (x *addressIndex) add(a mesh.Address, st *workloadState) {
	list := x.more[a]
	if list == nil {
		switch one := x.preferred(a); one {
		case nil, st:
			x.first.set(addressOf(a), st)
			return
		default:
			list = []*workloadState{one}
		}
	}
	if i, found := slices.BinarySearchFunc(list, st, compareWorkloads); !found {
		list = slices.Insert(list, i, st)
	}
	x.more[a] = list
	x.first.set(addressOf(a), list[0])
}

// drop takes a workload away from an address, while that still is one of its own.
// Its place is found by looking, for what it is compared by may have changed.
func (x *addressIndex) drop(a mesh.Address, st *workloadState) {
	x.dropped = append(x.dropped, a)
	list := x.more[a]
	if list == nil {
		if x.preferred(a) == st {
			x.first.remove(addressOf(a))
		}
		return
	}
	if i := slices.Index(list, st); i >= 0 {
		list = slices.Delete(list, i, i+1)
	}
	x.first.set(addressOf(a), list[0])
	if x.more[a] = list; len(list) == 1 {
		delete(x.more, a)
	}
}

// publish writes who is at an address now.
func (x *addressIndex) publish(a mesh.Address, e *tableEdit[addressKey, Destination]) {
	switch st := x.preferred(a); {
	case st == nil:
		e.remove(addressKey(a))
	case st.dest != nil: // else it is marked, and will be
		e.set(addressKey(a), st.dest)
	}
}
