// Package nettest is a mesh in network namespaces, for tests: two nodes and
// their pods, each in a namespace of its own with veth pairs between them, real
// redirection in the pods, an agent of the CNI on each node, and real node
// tunnels that it tells of the pods. There is no Kubernetes, and a mesh takes
// milliseconds.
//
//	m := nettest.New(t, nettest.Options{})
//	web, items := m.Captured("node-a", "web"), m.Captured("node-b", "items")
//	m.Service("items", 80)
//	items.Serve(meshtest.Echo)
//
// What there is beyond pods and their network is package meshtest's. It needs
// Linux and root.
package nettest
