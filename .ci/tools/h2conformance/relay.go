package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
)

// A relay carries each TCP connection that it accepts through a tunnel of its own
// to the Service: CONNECT over mTLS, by Go's client.
type relay struct {
	net.Listener
	waypoint  string
	transport *http.Transport
}

// startRelay returns where the relay listens.
func (m *mesh) startRelay() (netip.AddrPort, error) {
	r := &relay{
		waypoint:  netip.AddrPortFrom(m.waypoint, hbonePort).String(),
		transport: &http.Transport{TLSClientConfig: m.tls, Protocols: new(http.Protocols)},
	}
	r.transport.Protocols.SetHTTP2(true)
	var err error
	if r.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return netip.AddrPort{}, err
	}
	m.closers = append(m.closers, r)
	go r.serve()
	return netip.ParseAddrPort(r.Addr().String())
}

func (r *relay) serve() {
	for {
		nc, err := r.Accept()
		if err != nil {
			return // closed
		}
		go r.carry(nc.(*net.TCPConn))
	}
}

// carry ends when both directions have, or one of them is aborted.
func (r *relay) carry(nc *net.TCPConn) {
	defer nc.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	up, feed := io.Pipe()
	res, err := r.transport.RoundTrip((&http.Request{
		Method: http.MethodConnect, Host: vip, Body: up,
		URL: &url.URL{Scheme: "https", Host: r.waypoint}, Header: http.Header{},
	}).WithContext(ctx))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("CONNECT: %s", res.Status)
	}
	if err != nil {
		_ = nc.SetLinger(0) // the case must not take it for an orderly end
		return
	}
	defer res.Body.Close()
	go func() {
		_, err := io.Copy(feed, nc)
		_ = feed.CloseWithError(err) // nil is an end in order
	}()
	if _, err := io.Copy(nc, res.Body); err != nil {
		_ = nc.SetLinger(0)
	}
}
