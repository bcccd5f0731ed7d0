package kube

import "net/url"

// Meta is what we read of an object's metadata.
type Meta struct {
	Name              string
	Namespace         string
	UID               string
	ResourceVersion   string
	DeletionTimestamp string // "": nobody has asked for its deletion
	Labels            map[string]string
	Annotations       map[string]string
}

// A Pod is what we read of one.
type Pod struct {
	Metadata Meta
	Spec     struct {
		NodeName           string
		HostNetwork        bool
		ServiceAccountName string
	}
	Status struct {
		Phase             string // Pending, Running, Succeeded, Failed or Unknown
		PodIP             string
		PodIPs            []struct{ IP string }
		ContainerStatuses []struct {
			ContainerID string // such as containerd://0123…
		}
	}
}

// A Namespace is what we read of one.
type Namespace struct{ Metadata Meta }

func (p *Pod) meta() *Meta       { return &p.Metadata }
func (n *Namespace) meta() *Meta { return &n.Metadata }

// An object is a pointer to what is listed.
type object[T any] interface {
	*T
	meta() *Meta
}

// A Resource is a collection of objects of one kind.
type Resource[T any] struct {
	path  string
	query url.Values
}

// PodsOf is the pods of a node.
func PodsOf(node string) Resource[Pod] {
	return Resource[Pod]{"/api/v1/pods", url.Values{"fieldSelector": {"spec.nodeName=" + node}}}
}

// Namespaces is all of them.
func Namespaces() Resource[Namespace] { return Resource[Namespace]{path: "/api/v1/namespaces"} }
