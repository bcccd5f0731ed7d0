package xds

import (
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/xds/workloadapi"
)

// A waypoint that is deleted and made again, with the same names and often the same bytes,
// is each time what istiod says: a service that keeps going straight to its pods, when it
// has a waypoint, goes past the policies there.
func TestWaypointsComeAndGo(t *testing.T) {
	r := start(t, Options{})
	s := r.plane.accept(t)
	s.subscribed()
	named := mesh.Hostname{Namespace: "default", Host: "waypoint"}
	gateway := &workloadapi.GatewayAddress{
		Destination:   &workloadapi.GatewayAddress_Hostname{Hostname: &workloadapi.NamespacedHostname{Namespace: "default", Hostname: "waypoint"}},
		HboneMtlsPort: 15008,
	}
	web := func(version string, waypoint bool) *discoveryv3.Resource {
		a := new(workloadapi.Address)
		out := service(t, "web", version, "10.9.0.1")
		if err := proto.Unmarshal(out.Resource.Value, a); err != nil {
			t.Fatal(err)
		}
		if waypoint {
			a.GetService().Waypoint = gateway
		}
		return resource(t, "default/web", version, a)
	}
	pod := workload(t, "waypoint-1", "1", "10.0.0.9", func(w *workloadapi.Workload) {
		w.Services = map[string]*workloadapi.PortList{"default/waypoint": {Ports: []*workloadapi.Port{{ServicePort: 15008, TargetPort: 15008}}}}
	})
	direct := web("1", false)
	s.ack(AddressType, nil, direct, workload(t, "a", "1", "10.0.0.1"))
	s.ack(AuthorizationType, nil)
	<-r.store.Ready()
	through := func(want bool) {
		t.Helper()
		d := r.at("10.9.0.1:80")
		if d == nil || d.Service == nil {
			t.Fatalf("the service: got %+v", d)
		}
		if w := d.Service.Waypoint; (w != nil) != want || want && w.Hostname != named {
			t.Errorf("its waypoint: got %+v, want one: %v", w, want)
		}
	}
	through(false)
	for _, vip := range []string{"10.9.0.7", "10.9.0.7", "10.9.0.8"} { // as it was, and with another VIP
		// istiod tells of the waypoint's Service first, of its pod, and of who uses it once the
		// Gateway has an address.
		s.ack(AddressType, nil, service(t, "waypoint", vip, vip))
		s.ack(AddressType, nil, pod)
		s.ack(AddressType, nil, web("2", true))
		through(true)
		if d := r.at(vip + ":80"); d == nil || len(d.Endpoints) != 1 {
			t.Errorf("the waypoint at %s: got %+v, want one endpoint", vip, d)
		}
		s.ack(AddressType, []string{"default/waypoint"}, direct)
		through(false)
		s.ack(AddressType, []string{uid("waypoint-1")})
		// And all in one, which is what a push that was held back is.
		s.ack(AddressType, nil, web("2", true), pod, service(t, "waypoint", vip, vip))
		through(true)
		s.ack(AddressType, []string{uid("waypoint-1"), "default/waypoint"}, direct)
		through(false)
		if d := r.at(vip + ":80"); d != nil {
			t.Errorf("the waypoint that is gone, at %s: got %+v", vip, d)
		}
	}
}
