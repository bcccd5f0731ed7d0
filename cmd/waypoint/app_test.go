package main

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// moreServices are further services of productpage's pod, a port for each way
// that a port can be declared.
const moreServices = `apiVersion: v1
kind: Service
metadata: {name: more, namespace: default}
spec:
  clusterIP: 127.97.0.77
  selector: {app: productpage}
  ports:
  - {name: http2-declared, port: 9081}
  - {name: grpc-declared, port: 9082}
  - {name: tcp-declared, port: 9083}
  - {name: undeclared, port: 9084}
`

var more = netip.MustParseAddr("127.97.0.77")

// An app is what the pod productpage-v1 runs, in place of bookinfo's program: it
// speaks more protocols.
type app struct {
	held    chan struct{} // a request has come that waits for release
	release chan struct{}
}

func (r *rig) app() *app {
	r.t.Helper()
	a := &app{held: make(chan struct{}, 1), release: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", a.hello)
	mux.HandleFunc("/echo", a.echo)
	mux.HandleFunc("/hold", a.hold)
	mux.HandleFunc("/huge", a.huge)
	mux.HandleFunc("/ws", a.webSocket)
	for _, port := range []uint16{bookinfoPort, 9081, 9084} {
		srv := &http.Server{Handler: mux, Protocols: new(http.Protocols)}
		srv.Protocols.SetHTTP1(true)
		srv.Protocols.SetUnencryptedHTTP2(true)
		r.serve(port, srv.Serve, func() { _ = srv.Close() })
	}
	srv := grpc.NewServer()
	grpc_testing.RegisterTestServiceServer(srv, testService{})
	r.serve(9082, srv.Serve, srv.Stop)
	r.serve(9083, a.serveTCP, func() {})
	return a
}

// serve runs a server on a port of the pod for as long as the test.
func (r *rig) serve(port uint16, serve func(net.Listener) error, stop func()) {
	r.t.Helper()
	done := make(chan struct{})
	r.t.Cleanup(func() {
		stop()
		<-done
	})
	ln := r.listen(r.pod, port)
	go func() {
		defer close(done)
		_ = serve(ln) // until it is stopped
	}()
}

func (a *app) hello(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("x-proto", req.Proto)
	_, _ = io.WriteString(w, "hello") // here and below: the client may have gone
}

// echo sends content back as it comes, and a trailer.
func (a *app) echo(w http.ResponseWriter, req *http.Request) {
	c := http.NewResponseController(w)
	_ = c.EnableFullDuplex()
	w.Header().Set("trailer", "x-end")
	_, _ = io.Copy(w, req.Body)
	w.Header().Set("x-end", "whole")
}

func (a *app) hold(w http.ResponseWriter, req *http.Request) {
	a.held <- struct{}{}
	<-a.release
	a.hello(w, req)
}

// webSocket does the opening handshake (RFC 6455, section 4.2.2) and returns
// bytes, frames or not, until their end.
func (a *app) webSocket(w http.ResponseWriter, req *http.Request) {
	nc, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	defer nc.Close()
	_, _ = io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: "+acceptKey(req.Header.Get("sec-websocket-key"))+"\r\n\r\n")
	_, _ = io.Copy(nc, rw)
	_, _ = io.WriteString(nc, "bye")
}

func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// serveTCP returns what a client sends, and says goodbye after its end.
func (a *app) serveTCP(ln net.Listener) error {
	for {
		nc, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer nc.Close()
			_, _ = io.Copy(nc, nc)
			_, _ = io.WriteString(nc, "bye")
		}()
	}
}

// A testService echoes.
type testService struct {
	grpc_testing.UnimplementedTestServiceServer
}

func (testService) UnaryCall(_ context.Context, in *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	if s := in.GetResponseStatus(); s != nil {
		return nil, status.Error(codes.Code(s.Code), s.Message)
	}
	return &grpc_testing.SimpleResponse{Payload: in.Payload}, nil
}

func (testService) FullDuplexCall(s grpc_testing.TestService_FullDuplexCallServer) error {
	for {
		in, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&grpc_testing.StreamingOutputCallResponse{Payload: in.Payload}); err != nil {
			return err
		}
	}
}
