package xds

import (
	"cmp"
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// A Node is who we are to istiod. It compares Namespace, and the SERVICE_ACCOUNT
// of Metadata if there is one, with the token.
type Node struct {
	IP        string // of our pod
	Pod       string
	Namespace string
	Name      string // of the node: istiod sends its pods unasked

	// Metadata is further metadata, of JSON's types. It goes before ours.
	Metadata map[string]any
}

// noIP is what a node tunnel says that does not know its address: istiod takes
// no node ID without one.
const noIP = "1.1.1.1"

// proto returns n as Istio's node tunnel says who it is.
func (n *Node) proto() (*corev3.Node, error) {
	ip := cmp.Or(n.IP, noIP)
	metadata := map[string]any{"NAME": n.Pod, "NAMESPACE": n.Namespace, "INSTANCE_IPS": ip, "NODE_NAME": n.Name}
	for k, v := range n.Metadata {
		metadata[k] = v
	}
	s, err := structpb.NewStruct(metadata)
	if err != nil {
		return nil, fmt.Errorf("xds: metadata of the node: %w", err)
	}
	return &corev3.Node{
		Id:       fmt.Sprintf("ztunnel~%s~%s.%s~%s.svc.cluster.local", ip, n.Pod, n.Namespace, n.Namespace),
		Metadata: s,
	}, nil
}
