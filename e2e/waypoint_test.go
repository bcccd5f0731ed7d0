//go:build linux

package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// Connections that are for a service, or for pods, behind a waypoint go there, and from
// there straight to the pods.
func TestOutboundDecisionsWithAWaypoint(t *testing.T) {
	r := start(t)
	label := func(what, value string) {
		t.Helper()
		r.kubectl("-n", "shop", "label", "--overwrite", what, "istio.io/use-waypoint"+value)
	}
	label("service/echo-v2", "=waypoint")
	r.waypoint("shop", true)
	r.finally("-n", "shop", "delete", "gateway/waypoint", "deployment/waypoint", "service/waypoint", "serviceaccount/waypoint", "configmap/waypoint-config", "--ignore-not-found")
	r.kubectl("-n", "shop", "rollout", "status", "deployment/waypoint", "--timeout=60s")
	wp := r.pod("shop", "gateway.networking.k8s.io/gateway-name=waypoint")
	vip := r.vip("shop", "echo-v2", 80)

	by := func(to, want string) {
		t.Helper()
		r.eventually("by "+want, 20*time.Second, func() error {
			a, line := r.way(r.client, to)
			if a.err != nil || a.status != 200 {
				return fmt.Errorf("%s", a)
			}
			if !strings.Contains(line, want) {
				return fmt.Errorf("%s", line)
			}
			return nil
		})
	}
	at := net.JoinHostPort(wp.IP.String(), "15008")
	t.Run("VIP", func(t *testing.T) { r.t = t; by(vip, "dst.addr="+at+" dst.hbone_addr="+vip) })
	pod := net.JoinHostPort(r.v2.IP.String(), "8080")
	t.Run("pod-IP-is-not-the-service", func(t *testing.T) { r.t = t; by(pod, "dst.hbone_addr="+pod) })
	t.Run("edits-and-outage", func(t *testing.T) { // no endpoint of the waypoint: fail closed
		r.t = t
		r.kubectl("-n", "shop", "scale", "deployment/waypoint", "--replicas=0")
		r.refuses(r.client, vip, true)
		r.kubectl("-n", "shop", "scale", "deployment/waypoint", "--replicas=1")
		r.pod("shop", "gateway.networking.k8s.io/gateway-name=waypoint")
	})
	r.t = t
	t.Run("pod-IP", func(t *testing.T) { // a pod's own waypoint is for who does not ask for a service
		r.t = t
		r.kubectl("-n", "shop", "label", "gateway/waypoint", "istio.io/waypoint-for=all")
		label("pod/"+r.v2.Name, "=waypoint")
		r.finally("-n", "shop", "label", "pod/"+r.v2.Name, "istio.io/use-waypoint-")
		r.waypoint("shop", false)
		now := net.JoinHostPort(r.pod("shop", "gateway.networking.k8s.io/gateway-name=waypoint").IP.String(), "15008")
		by(pod, "dst.addr="+now+" dst.hbone_addr="+pod)
		label("pod/"+r.v2.Name, "-")
		by(pod, "dst.addr="+net.JoinHostPort(r.v2.IP.String(), "15008")+" ")
	})
	r.t = t
	label("service/echo-v2", "-")
	t.Run("label-removed", func(t *testing.T) {
		r.t = t
		by(vip, "dst.hbone_addr="+pod)
	})
	r.t = t
}
