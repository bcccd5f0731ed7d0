package ztunnelcmd

import (
	"bufio"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/waystone-mesh/waystone/internal/program/programtest"
	"github.com/waystone-mesh/waystone/internal/xds"
	"github.com/waystone-mesh/waystone/internal/xds/workloadapi"
)

// An askedPlane is a control plane that tells of a node's pod unasked, and
// otherwise of what it is asked for.
type askedPlane struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	pod *discoveryv3.Resource
	has map[string][]*discoveryv3.Resource

	mu    sync.Mutex
	asked []string // guarded by mu
}

func (p *askedPlane) DeltaAggregatedResources(st discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	begun := false
	for {
		r, err := st.Recv()
		if err != nil {
			return err
		}
		if r.ResponseNonce != "" {
			continue
		}
		out := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: r.TypeUrl, Nonce: "1"}
		if r.TypeUrl == xds.AddressType {
			if !begun {
				begun = true
				out.Resources = append(out.Resources, p.pod)
			}
			for _, name := range r.ResourceNamesSubscribe {
				if has := p.has[name]; has != nil {
					out.Resources = append(out.Resources, has...)
				} else if name != "*" {
					out.RemovedResources = append(out.RemovedResources, name)
				}
			}
			p.mu.Lock()
			p.asked = append(p.asked, r.ResourceNamesSubscribe...)
			p.mu.Unlock()
		}
		if err := st.Send(out); err != nil {
			return err
		}
	}
}

func addressResource(t *testing.T, name string, a *workloadapi.Address) *discoveryv3.Resource {
	t.Helper()
	b, err := proto.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	return &discoveryv3.Resource{Name: name, Version: "1", Resource: &anypb.Any{Value: b}}
}

// The program as a whole: a pod names a service of which nothing is known, which
// istiod is asked for, and is connected to it.
func TestOnDemand(t *testing.T) {
	listen := func(addr string) net.Listener {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Skipf("%s: loopback addresses beyond 127.0.0.1 are Linux's: %v", addr, err)
		}
		t.Cleanup(func() { ln.Close() })
		return ln
	}
	const podIP, appIP, host = "127.91.7.1", "127.91.7.2", "items.default.svc.cluster.local"
	listen(podIP + ":0")
	app := listen(appIP + ":0")
	go func() {
		for {
			nc, err := app.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(nc, "hello\n")
			nc.Close()
		}
	}()
	pod := func(name, ip string, tunnel workloadapi.TunnelProtocol, services map[string]*workloadapi.PortList) *discoveryv3.Resource {
		w := &workloadapi.Workload{
			Uid: "Kubernetes//Pod/default/" + name, Name: name, Namespace: "default", Node: map[string]string{"web": "n1"}[name],
			Addresses: [][]byte{net.ParseIP(ip).To4()}, TunnelProtocol: tunnel, Services: services,
		}
		return addressResource(t, w.Uid, &workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: w}})
	}
	port := &workloadapi.Port{ServicePort: 80, TargetPort: uint32(app.Addr().(*net.TCPAddr).Port)}
	service := addressResource(t, "default/"+host, &workloadapi.Address{Type: &workloadapi.Address_Service{Service: &workloadapi.Service{
		Name: "items", Namespace: "default", Hostname: host, Ports: []*workloadapi.Port{port},
	}}})
	plane := &askedPlane{pod: pod("web", podIP, workloadapi.TunnelProtocol_HBONE, nil), has: map[string][]*discoveryv3.Resource{
		"default/" + host: {service, pod("items", appIP, workloadapi.TunnelProtocol_NONE, map[string]*workloadapi.PortList{"default/" + host: {Ports: []*workloadapi.Port{port}}})},
	}}
	control := listen("127.0.0.1:0")
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, plane)
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(control) }()
	defer func() { g.Stop(); <-served }()

	log, args := programtest.Quiet(t)
	c := Command()
	c.SetArgs(append([]string{"--node", "n1", "--xds-on-demand", "--xds-address", "http://" + control.Addr().String()}, args[2:]...)) // not --config
	ended := make(chan error, 1)
	ctx := programtest.UntilLogged(t, log, `"connection complete"`)
	go func() { ended <- c.ExecuteContext(ctx) }()

	nc, err := net.Dial("tcp", podIP+":15080")
	for end := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(end); nc, err = net.Dial("tcp", podIP+":15080") {
		<-time.After(time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = nc.Write(append(append([]byte{5, 1, 0, 5, 1, 0, 3, byte(len(host))}, host...), 0, 80))
	answer := make([]byte, 12)
	if _, err := io.ReadFull(nc, answer); err != nil || answer[3] != 0 {
		t.Fatalf("got %v, %v", answer, err)
	}
	if line, err := bufio.NewReader(nc).ReadString('\n'); line != "hello\n" {
		t.Errorf("got %q, %v", line, err)
	}
	nc.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	plane.mu.Lock()
	defer plane.mu.Unlock()
	if !slices.Equal(plane.asked, []string{"*", "default/" + host}) {
		t.Errorf("asked for %q", plane.asked)
	}
}
