// Package bookinfo is the walk-through's mesh: its manifests, one file a step, and
// the programs that its pods run.
//
//	productpage → details
//	            → reviews (v1, v2, v3) → ratings (from v2 on)
//
// A pod listens on its own address and reaches everything else through its node
// tunnel: by SOCKS5, port 15080 of that address. There is nothing about the mesh
// in the programs beyond this, and the trace context that they pass on.
//
// The clients are the pods sleep and notsleep; see Main for what they can be told.
// The ingress is the pod istio-ingressgateway, which serves what the Gateway and
// its HTTPRoutes in the manifests say.
package bookinfo

import "embed"

// Manifests are the files of this directory.
//
//go:embed *.yaml *.jwt
var Manifests embed.FS

// Port is where every service listens.
const Port = 9080

// SOCKSPort is where a pod hands its connections to its node tunnel.
const SOCKSPort = 15080

// IPs are the addresses of the pods in the manifests.
var IPs = map[string]string{
	"productpage-v1":       "127.244.1.24",
	"details-v1":           "127.244.1.21",
	"reviews-v1":           "127.244.1.31",
	"reviews-v2":           "127.244.2.32",
	"reviews-v3":           "127.244.2.33",
	"ratings-v1":           "127.244.2.41",
	"sleep":                "127.244.2.9",
	"notsleep":             "127.244.1.12",
	"istio-ingressgateway": "127.244.2.5",

	"bookinfo-productpage-istio-waypoint": "127.244.1.50",
	"bookinfo-reviews-istio-waypoint":     "127.244.2.50",
}
