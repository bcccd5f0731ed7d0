package config

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// A builder compiles what changed since the last publish. It belongs to the
// Store, under its mutex.
type builder struct {
	*state
	book addressBook   // of our waypoint
	near mesh.Locality // where the proxy is

	// What was compiled from the same versions is compiled once and stays the
	// same pointer, as with policies.
	tables cache[*routing.Table]

	// Which sets of RequestAuthentications destinations have, and whether those
	// are others than before.
	tokenUses     uses
	sourcesChange bool

	sets    setsOf // during build
	key     []byte // to be used again
	changes Changes
}

// unattached is the set of what our waypoint does not serve. Nobody should ask
// it; whoever forgets to look at Attached is refused rather than let through.
var unattached = authz.Closed("not attached to this waypoint")

// build compiles everything that is marked and returns the successor of old.
func (b *builder) build(old *Snapshot) (*Snapshot, Changes) {
	next := *old
	b.changes = Changes{Snapshot: &next, Destinations: map[*Destination]*Destination{}}
	b.markAffected()
	b.lookAround()
	b.sets = setsOf{}
	services, workloads, addresses := editOf(old.services), editTable(old.workloads), editTable(old.addresses)
	for _, st := range b.dirtyServices {
		b.service(st, services)
	}
	for _, st := range b.dirtyWorkloads {
		b.workload(st, workloads, addresses)
	}
	for _, a := range b.addresses.dropped {
		b.addresses.publish(a, addresses)
	}
	b.sets, b.identities = nil, nil
	b.dirtyServices, b.dirtyWorkloads, b.addresses.dropped = emptied(b.dirtyServices), emptied(b.dirtyWorkloads), emptied(b.addresses.dropped)

	next.services, next.workloads, next.addresses = services.done(), workloads.done(), addresses.done()
	next.hosts = flush(&b.hosts, old.hosts, viewsOf)
	next.vips = flush(&b.vips, old.vips, viewsOf)
	if len(b.blocks.dirty) > 0 {
		next.lengths = sortedLengths(b.blockCount)
	}
	next.blocks = flush(&b.blocks, old.blocks, viewsOf)
	next.nodes = flush(&b.nodes, old.nodes, workloadsOf)
	if b.listings {
		b.list(&next)
	}
	if b.sourcesChange {
		next.sources, b.sourcesChange = b.tokenUses.sources(), false
	}
	b.policies.forget()
	b.tokens.forget()
	if len(b.retired) > 0 {
		b.tables.forget(b.retired)
		b.retired = b.retired[:0]
	}
	return &next, b.changes
}

// lookAround finds out where we are and what our waypoint is called, and marks
// what depends on either if it changed.
func (b *builder) lookAround() {
	near := b.options.Locality
	if near == (mesh.Locality{}) && b.options.Node != "" {
		if local := b.nodes.owners[b.options.Node]; len(local) > 0 {
			near = local[0].workload.Locality
		}
	}
	if near != b.near {
		b.near = near
		b.markAll(func(svc *mesh.Service) bool { return len(svc.Balance.Preference) > 0 }, nil)
	}
	if !b.waypoint() {
		return
	}
	book := b.ourAddresses()
	if !maps.Equal(book.hosts, b.book.hosts) || !maps.Equal(book.addresses, b.book.addresses) {
		b.book = book
		b.markAll(func(svc *mesh.Service) bool { return svc.Waypoint != nil || len(svc.Canary) > 0 },
			func(w *mesh.Workload) bool { return w.Waypoint != nil })
	}
}

// service compiles a service that is marked.
func (b *builder) service(st *serviceState, e *edit[mesh.Hostname, *serviceView]) {
	st.dirty = false
	old := st.view
	if st.service == nil {
		if st.view = nil; old != nil {
			e.remove(st.host)
			b.replaced(old, nil)
		}
		if len(st.members) == 0 {
			delete(b.services, st.host)
		}
		return
	}
	view := b.compileService(st)
	if old != nil && old.service == view.service && old.other == view.other && slices.Equal(old.ports, view.ports) {
		return
	}
	st.view = view
	e.set(st.host, view)
	b.replaced(old, view)
	b.touchService(st)
}

// touchService marks the names and addresses under which the view is found.
func (b *builder) touchService(st *serviceState) {
	b.hosts.touch(hostKey(st.service.Hostname))
	for _, p := range st.service.Addresses {
		if p.Prefix.IsSingleIP() {
			b.vips.touch(mesh.Address{Network: p.Network, IP: p.Prefix.Addr()})
		} else {
			b.blocks.touch(mesh.Prefix{Network: p.Network, Prefix: p.Prefix.Masked()})
		}
	}
}

// replaced records which destinations stand in the place of a view's.
func (b *builder) replaced(old, view *serviceView) {
	b.useTokens(old.some(), view.some())
	if old == nil {
		return
	}
	note := func(d *Destination, port uint16, other bool) {
		var now *Destination
		if view != nil {
			if now = view.other; !other {
				now = view.port(port)
			}
		}
		if now != d {
			b.changes.Destinations[d] = now
		}
	}
	for _, d := range old.ports {
		note(d, d.Port.Service, false)
	}
	note(old.other, 0, true)
}

// compileService returns the view of a service, made of the destinations of
// its last view as far as nothing in them changed.
func (b *builder) compileService(st *serviceState) *serviceView {
	svc := st.service
	base := Destination{Service: svc, Attached: b.waypoint() && b.serves(&b.book, svc)}
	b.policiesFor(&base)
	view := &serviceView{service: svc}
	for i := range svc.Ports {
		d := base
		d.Port = &svc.Ports[i]
		if slices.ContainsFunc(svc.Ports[:i], func(p mesh.Port) bool { return p.Service == d.Port.Service }) {
			continue // the first one of a number counts
		}
		if d.Attached {
			d.Routes = b.table(svc, d.Port)
		}
		d.Endpoints = b.endpoints(svc, d.Port.Service, st.members)
		d.Heaviest = heaviest(d.Endpoints)
		d.Retries = st.budget(d.Port.Service)
		var old *Destination
		if st.view != nil {
			old = st.view.port(d.Port.Service)
		}
		view.ports = append(view.ports, keep(old, &d))
	}
	var old *Destination
	if st.view != nil {
		old = st.view.other
	}
	base.Retries = st.budget(0)
	view.other = keep(old, &base)
	return view
}

// budget returns the retry budget of a port, which outlives versions of the
// service.
func (st *serviceState) budget(port uint16) *routing.Budget {
	if st.retries == nil {
		st.retries = map[uint16]*routing.Budget{}
	}
	if st.retries[port] == nil {
		st.retries[port] = new(routing.Budget)
	}
	return st.retries[port]
}

// keep returns old if d says the same, else a copy of d.
func keep(old, d *Destination) *Destination {
	if old != nil && old.Service == d.Service && old.Port == d.Port && old.Workload == d.Workload &&
		old.Policies == d.Policies && old.Tokens == d.Tokens && old.Routes == d.Routes && old.Attached == d.Attached &&
		old.Retries == d.Retries && slices.Equal(old.Endpoints, d.Endpoints) {
		return old
	}
	kept := *d
	return &kept
}

// workload compiles a workload that is marked.
func (b *builder) workload(st *workloadState, e *tableEdit[uidKey, Destination], addresses *tableEdit[addressKey, Destination]) {
	st.dirty = false
	old, w := st.dest, st.workload
	var before *mesh.Workload
	if old != nil {
		before = old.Workload
	}
	if w == nil {
		b.workloads.remove(uidOf(st.uid))
		if st.dest = nil; old != nil {
			e.remove(uidKey(st.uid))
			b.useTokens(old, nil)
			b.changes.Destinations[old] = nil
			b.changes.Workloads = append(b.changes.Workloads, WorkloadChange{Old: before})
		}
		return
	}
	d := Destination{Workload: w, Attached: b.waypoint() && b.leadsHere(&b.book, w.Waypoint), Retries: &st.retries}
	b.policiesFor(&d)
	if ep, ok := b.endpoint(nil, st, 0); ok {
		d.Endpoints, d.Heaviest = []mesh.Endpoint{ep}, max(1, w.Capacity)
	}
	if st.dest = keep(old, &d); st.dest == old {
		return
	}
	e.set(uidKey(st.uid), st.dest)
	b.useTokens(old, st.dest)
	if old != nil {
		b.changes.Destinations[old] = st.dest
	}
	if before != w {
		b.changes.Workloads = append(b.changes.Workloads, WorkloadChange{before, w})
	}
	if !w.HostNetwork {
		for _, ip := range w.Addresses {
			b.addresses.publish(mesh.Address{Network: w.Network, IP: ip}, addresses)
		}
	}
}

// policiesFor gives d, which has its Service or Workload, its policies.
func (b *builder) policiesFor(d *Destination) {
	switch {
	case b.waypoint() && !d.Attached:
		d.Policies = unattached
		return
	case !b.waypoint():
		if d.Workload != nil { // tokens are in requests, and services are other proxies' business
			d.Policies = b.ofWorkload(d.Workload)
		}
		return
	}
	namespaces, attached := b.attached(d.Service, d.Workload)
	d.Policies = b.policies.set(namespaces, attached)
	d.Tokens = b.tokens.set(namespaces, attached)
}

// useTokens notes which RequestAuthentications a Destination has in the place of
// those of another, which of them may be nil.
func (b *builder) useTokens(old, now *Destination) {
	b.sourcesChange = b.tokenUses.change(tokensOf(old), tokensOf(now)) || b.sourcesChange
}

// table returns the table of a port of a service.
func (b *builder) table(svc *mesh.Service, port *mesh.Port) *routing.Table {
	states := b.routesOf(svc, port)
	if len(states) == 0 {
		return nil
	}
	versions := make([]uint64, len(states))
	routes := make([]*routing.Route, len(states))
	for i, r := range states {
		versions[i], routes[i] = r.version, r.route
	}
	return b.tables.of(versions, func() *routing.Table {
		t, _ := routing.Compile(routes...) // each was good by itself, and they do not mix
		return t
	})
}

// A cache holds what was compiled, by the versions it was compiled from. The
// zero cache is empty.
type cache[T any] struct{ compiled map[string]T }

// of returns what make made of the versions, now or before.
func (c *cache[T]) of(versions []uint64, make func() T) T {
	key := cacheKey(versions)
	t, ok := c.compiled[key]
	if !ok {
		if c.compiled == nil {
			c.compiled = map[string]T{}
		}
		t = make()
		c.compiled[key] = t
	}
	return t
}

// forget drops whatever was compiled from one of the versions.
func (c *cache[T]) forget(versions []uint64) {
	for key := range c.compiled {
		for i := 0; i < len(key); i += 8 {
			if slices.Contains(versions, binary.LittleEndian.Uint64([]byte(key[i:i+8]))) {
				delete(c.compiled, key)
				break
			}
		}
	}
}

func cacheKey(versions []uint64) string {
	key := make([]byte, 0, 8*len(versions))
	for _, v := range versions {
		key = binary.LittleEndian.AppendUint64(key, v)
	}
	return string(key)
}

// emptied returns a list with nothing in it, and with as little room as lists of
// changes mostly need: one that was once long would be kept for nothing.
func emptied[T any](list []T) []T {
	if cap(list) > 1<<10 {
		return nil
	}
	clear(list)
	return list[:0]
}

// viewsOf returns the views of services that share a key.
func viewsOf(list []*serviceState) ([]*serviceView, bool) {
	views := make([]*serviceView, len(list))
	for i, st := range list {
		views[i] = st.view
	}
	return views, len(list) > 0
}

func workloadsOf(list []*workloadState) ([]*mesh.Workload, bool) {
	out := make([]*mesh.Workload, len(list))
	for i, st := range list {
		out[i] = st.workload
	}
	return out, len(list) > 0
}

func sortedLengths(counts map[prefixLength]int) []prefixLength {
	out := make([]prefixLength, 0, len(counts))
	for l := range counts {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b prefixLength) int { return -cmp.Compare(a.bits, b.bits) })
	return out
}

// list makes the snapshot's lists of what it was compiled from.
func (b *builder) list(next *Snapshot) {
	next.routes, next.gateways = nil, nil
	next.mesh, next.policies, next.tokens = b.mesh, b.policies.good(), b.tokens.good()
	for _, r := range b.routes {
		next.routes = append(next.routes, r.route)
	}
	for _, g := range b.gateways {
		next.gateways = append(next.gateways, g)
	}
	slices.SortFunc(next.policies, compareKeys)
	slices.SortFunc(next.tokens, compareKeys)
	slices.SortFunc(next.routes, compareKeys)
	slices.SortFunc(next.gateways, compareKeys)
	b.listings = false
}

func compareKeys[R Resource](a, b R) int {
	x, y := a.Key(), b.Key()
	return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
}
