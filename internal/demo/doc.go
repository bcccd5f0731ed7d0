// Package demo replays Istio's ambient getting-started walk-through on one
// machine: no cluster, no root, real processes and real TLS.
//
// Every proxy and every service is a process of its own, this program run again
// with another command, on the addresses of 127/8 that the manifests in
// examples/bookinfo give to pods. What kubectl would do is done to a directory of
// files that all of them watch.
//
//	demo.go       the walk-through, and what stands around it
//	steps.go      the steps: what is done, what is expected
//	tokens.go     the steps about tokens and Rego, and the reasons of refusals
//	check.go      one command, what was expected of it and what was seen
//	load.go       traffic in the background, of which no request may be lost
//	processes.go  children, their readiness and their end
//	logs.go       the lines that the proxies write about all this
//	print.go      what is printed
//
// It needs Linux, where all of 127/8 is this machine.
package demo
