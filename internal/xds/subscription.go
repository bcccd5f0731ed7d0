package xds

import (
	"fmt"
	"strings"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A subscription is one type of resource, and what is known of it.
type subscription struct {
	url      string
	convert  func(name string, wire []byte) config.Update
	demanded bool // only what is asked for

	known  map[string]known
	synced bool // there has been a response
	fresh  bool // not yet on this stream
}

// A known is a resource that istiod has sent and not taken back, by name.
type known struct {
	// version is what to tell istiod that we have. It is "", which is no version,
	// of one that was refused: it is then sent again, and so is its removal.
	version string
	kind    kind
}

// A kind says which key of the Store a name stands for.
type kind uint8

const (
	aWorkload kind = iota
	aService
	aPolicy
	aMeshPolicy // of the scope GLOBAL, and not in the root namespace
)

// key returns the key of a name in the Store. Only a kind and a name need to be
// remembered of what may be 200,000 workloads.
func (k kind) key(name, root string) mesh.Key {
	namespace, rest, _ := strings.Cut(name, "/")
	switch k {
	case aService:
		return mesh.Key{Kind: "Service", Namespace: namespace, Name: rest}
	case aPolicy:
		return mesh.Key{Kind: authz.Kind, Namespace: namespace, Name: rest}
	case aMeshPolicy:
		return mesh.Key{Kind: authz.Kind, Namespace: root, Name: name}
	}
	return mesh.Key{Kind: "Workload", Name: name}
}

// kindOf tells the kind of a key that came of a name.
func kindOf(k mesh.Key) kind {
	switch {
	case k.Kind == "Service":
		return aService
	case k.Kind == authz.Kind && strings.Contains(k.Name, "/"):
		return aMeshPolicy
	case k.Kind == authz.Kind:
		return aPolicy
	}
	return aWorkload
}

// versions returns what istiod is told that we have.
func (sub *subscription) versions() map[string]string {
	if len(sub.known) == 0 {
		return nil
	}
	out := make(map[string]string, len(sub.known))
	for name, k := range sub.known {
		out[name] = k.version
	}
	return out
}

// apply gives a response to the store, and returns what was refused of it. It
// takes r apart: what has been converted can be collected.
func (sub *subscription) apply(store *config.Store, r *discoveryv3.DeltaDiscoveryResponse) (refused []refusal) {
	root := store.Options().RootNamespace
	updates := make([]config.Update, 0, len(r.Resources)+len(r.RemovedResources))
	for i, res := range r.Resources {
		name := res.GetName()
		u := sub.convert(name, res.GetResource().GetValue())
		if r.Resources[i] = nil; sub.demanded {
			r.Resources[i] = &discoveryv3.Resource{Name: name, Aliases: res.GetAliases()} // who waits for it is told by name
		}
		k := kindOf(u.Key)
		if before, ok := sub.known[name]; ok && before.kind != k { // another thing has the name now
			updates = append(updates, config.Update{Key: before.kind.key(name, root)})
		}
		sub.known[name] = known{res.GetVersion(), k}
		updates = append(updates, u)
		if u.Err != nil {
			refused = append(refused, refusal{name, u.Err})
		}
	}
	for _, name := range r.RemovedResources {
		k, ok := sub.known[name]
		if !ok {
			continue // asked for, and not there
		}
		delete(sub.known, name)
		updates = append(updates, config.Update{Key: k.kind.key(name, root)})
	}
	if err := store.Apply(updates); err != nil {
		refused = append(refused, sub.rejected(store, updates)...)
	}
	for _, f := range refused {
		if k, ok := sub.known[f.name]; ok {
			k.version = ""
			sub.known[f.name] = k
		}
	}
	return refused
}

// rejected returns those of updates that passed here and that the store does not
// take.
func (sub *subscription) rejected(store *config.Store, updates []config.Update) (refused []refusal) {
	why := map[mesh.Key]error{}
	for _, r := range store.Rejected() {
		why[r.Key] = r.Err
	}
	for i := range updates {
		u := &updates[i]
		if err := why[u.Key]; err != nil && u.Err == nil && u.Value != nil {
			refused = append(refused, refusal{nameOf(u.Key), err})
		}
	}
	return refused
}

// nameOf returns the name that a key came of.
func nameOf(k mesh.Key) string {
	switch kindOf(k) {
	case aWorkload, aMeshPolicy:
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// A refusal is a resource that is not used, and why.
type refusal struct {
	name string
	err  error
}

// maxDetail bounds what istiod is told of refusals: it logs it. 64 KiB are some
// hundreds of them.
const maxDetail = 64 << 10

// join says what was refused, each by name.
func join(refused []refusal) string {
	var b strings.Builder
	for i, f := range refused {
		text := f.name + ": " + f.err.Error()
		if b.Len()+len(text) > maxDetail {
			fmt.Fprintf(&b, "; and %d more", len(refused)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(strings.ToValidUTF8(text, "?"))
	}
	return b.String()
}
