package xds

import (
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A subscription is one type of resource, and what is known of it.
type subscription struct {
	url      string
	convert  func(name string, wire []byte) config.Update
	demanded bool // only what is asked for

	known  known
	synced bool // there has been a response
	fresh  bool // not yet on this stream
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
	if sub.known.len() == 0 {
		return nil
	}
	out := make(map[string]string, sub.known.len())
	for name, version := range sub.known.all() {
		out[name] = version
	}
	return out
}

const (
	// staged is how many resources are staged together: a response may have
	// 200,000, and what there is between the wire and the store is then there for
	// few of them at a time.
	staged = 4096

	// large is a response that is worth the trouble of collecting garbage more
	// often while it is applied: 4 MiB are some ten thousand workloads. What has been
	// read of it is garbage, and so is what the converter leaves behind, of each
	// workload more than what is kept. largeGOGC is the GOGC in force meanwhile.
	large     = 4 << 20
	largeGOGC = 20
)

// apply gives a response to the store, and returns what was refused of it. What
// has been converted of r can be collected. With demanded, the names that the
// resources are asked for by are returned.
func (sub *subscription) apply(store *config.Store, r *response) (refused []refusal, names []string) {
	if r.size >= large {
		defer collectMore()()
	}
	root := store.Options().RootNamespace
	updates := make([]config.Update, 0, min(staged, 2*r.resources+len(r.removed)))
	flush := func(apply func([]config.Update) error) {
		if err := apply(updates); err != nil {
			refused = append(refused, sub.rejected(store, updates)...)
		}
		clear(updates)
		updates = updates[:0]
	}
	r.each(func(res *wireResource) {
		if len(updates) > staged-2 {
			flush(store.Stage)
		}
		u := sub.convert(res.name, res.value)
		if sub.demanded {
			names = append(append(names, res.name), res.aliases...)
		}
		k := kindOf(u.Key)
		if before, ok := sub.known.kind(res.name); ok && before != k { // another thing has the name now
			updates = append(updates, config.Update{Key: before.key(res.name, root)})
		}
		sub.known.put(res.name, k, res.version)
		updates = append(updates, u)
		if u.Err != nil {
			refused = append(refused, refusal{res.name, u.Err})
		}
	})
	for _, name := range r.removed {
		k, ok := sub.known.kind(name)
		if !ok {
			continue // asked for, and not there
		}
		sub.known.remove(name)
		updates = append(updates, config.Update{Key: k.key(name, root)})
	}
	flush(store.Apply)
	for _, f := range refused {
		if k, ok := sub.known.kind(f.name); ok {
			sub.known.put(f.name, k, nil)
		}
	}
	return refused, names
}

// collectMore has garbage collected more often until end is called.
func collectMore() (end func()) {
	before := debug.SetGCPercent(largeGOGC)
	if before < largeGOGC { // or it is off
		debug.SetGCPercent(before)
		return func() {}
	}
	return func() { debug.SetGCPercent(before) }
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
