// Package zds speaks the protocol by which istio-cni's agent, and Cilium's, hand
// a node's pods to its tunnel: messages over a SOCK_SEQPACKET socket, a pod's
// network namespace travelling along as a descriptor.
//
// The agent is the server. A [Client] greets it and is told of every pod of the
// node, then that these were all, and from then on of changes. The agent waits
// for an answer to each message before it sends the next; to a pod that is being
// created, the answer is what lets it start.
package zds

import (
	"log/slog"
	"time"

	"github.com/waystone-mesh/waystone/internal/netns"
)

// A Pod is a pod to be served.
type Pod struct {
	UID            string // Kubernetes'
	Name           string
	Namespace      string
	ServiceAccount string

	Netns *netns.Netns // owned by whoever is given the Pod
}

// A Handler is told of the node's pods. It is told one thing at a time, and
// whoever tells waits: it must not wait for the network.
type Handler interface {
	// Add begins to serve a pod, and owns its Netns from then on, whatever it
	// returns. For a UID that it has, a Netns of the same ID means that nothing
	// changed; one of another ID, that the pod was made anew and the former is
	// gone. An error says that the pod is not served as yet; trying again is the
	// Handler's.
	Add(Pod) error

	// Keep says that a pod, if it is being served, is still there.
	Keep(uid string)

	// Remove ends a pod, if it is being served.
	Remove(uid string)

	// Synced says that every pod that was there at the time of connecting has
	// been told of, and every other removed.
	Synced()
}

// Options is what a Client is made of. Path and Handler are required.
type Options struct {
	Path    string // of the agent's socket, such as /var/run/ztunnel/ztunnel.sock
	Handler Handler

	Log *slog.Logger // discards

	// Connected, if not nil, is told when the connection to the agent comes and
	// goes.
	Connected func(bool)

	// MinBackoff is how long after a first failure the agent is tried again, and
	// MaxBackoff how long at most, doubling in between; 0: 10 ms and 15 s.
	MinBackoff, MaxBackoff time.Duration
}
