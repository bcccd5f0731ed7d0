package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

const (
	hbonePort = 15008
	readyPort = 15021
	appPort   = 8080
	tcpPort   = 8081
	// vip is the address of the Service app. Nobody listens there: only the
	// waypoint needs to know what it means.
	vip = "10.96.0.10:80"
	// tcpVIPPort is the port of the Service tcp. Its address is the translator's:
	// an authority that a case writes is where it connected to.
	tcpVIPPort = 9000
)

// A mesh is what the waypoint needs around it: manifests, certificates and a
// destination. Everything has its own address in 127/8, at random, so that
// nothing else on the machine is in the way of the well-known ports.
type mesh struct {
	dir                   string
	waypoint, app, tcpVIP netip.Addr
	clientCert, clientKey string
	tls                   *tls.Config // of the client
	ids                   *authority

	cmd     *exec.Cmd
	exited  chan error
	closers []io.Closer
}

func newMesh(dir string) (*mesh, error) {
	m := &mesh{dir: dir, waypoint: someAddress(), app: someAddress(), tcpVIP: someAddress()}
	var err error
	if m.ids, err = newAuthority(filepath.Join(dir, "identity")); err != nil {
		return nil, err
	}
	if _, _, err := m.ids.issue("default", "waypoint"); err != nil {
		return nil, err
	}
	if m.clientCert, m.clientKey, err = m.ids.issue("default", "client"); err != nil {
		return nil, err
	}
	cert, err := tls.LoadX509KeyPair(m.clientCert, m.clientKey)
	if err != nil {
		return nil, err
	}
	m.tls = &tls.Config{
		Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true, // a SPIFFE ID is no host name
		NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13,
	}
	if err := os.WriteFile(filepath.Join(dir, "mesh.yaml"), []byte(m.manifests()), 0o600); err != nil {
		return nil, err
	}
	return m, errors.Join(m.startApp(), m.startTCP())
}

func someAddress() netip.Addr {
	return netip.AddrFrom4([4]byte{127, byte(64 + rand.N(128)), byte(rand.N(256)), byte(1 + rand.N(254))})
}

// manifests describe a Service on a port of undeclared protocol and one on a port
// of TCP, whose only pod is outside the mesh: the waypoint reaches it by plain
// TCP.
func (m *mesh) manifests() string {
	return fmt.Sprintf(`apiVersion: v1
kind: Namespace
metadata: {name: default}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: default}
spec:
  gatewayClassName: istio-waypoint
  addresses: [{type: IPAddress, value: %[1]s}]
  listeners: [{name: mesh, port: %[2]d, protocol: HBONE}]
---
apiVersion: v1
kind: Pod
metadata: {name: waypoint-1, namespace: default, labels: {gateway.networking.k8s.io/gateway-name: waypoint}}
spec: {serviceAccountName: waypoint, containers: []}
status: {podIP: %[1]s, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Service
metadata: {name: app, namespace: default, labels: {istio.io/use-waypoint: waypoint}}
spec: {clusterIP: 10.96.0.10, selector: {app: app}, ports: [{port: 80, targetPort: %[4]d}]}
---
apiVersion: v1
kind: Service
metadata: {name: tcp, namespace: default, labels: {istio.io/use-waypoint: waypoint}}
spec: {clusterIP: %[5]s, selector: {app: app}, ports: [{name: tcp, port: %[6]d, targetPort: %[7]d}]}
---
apiVersion: v1
kind: Pod
metadata: {name: app-1, namespace: default, labels: {app: app}}
spec: {serviceAccountName: app, containers: []}
status: {podIP: %[3]s, conditions: [{type: Ready, status: "True"}]}
`, m.waypoint, hbonePort, m.app, appPort, m.tcpVIP, tcpVIPPort, tcpPort)
}

// startApp starts the destination, which speaks HTTP/1.1 and HTTP/2 without TLS.
func (m *mesh) startApp() error {
	ln, err := net.Listen("tcp", netip.AddrPortFrom(m.app, appPort).String())
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: http.HandlerFunc(answer), Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	m.closers = append(m.closers, srv)
	go func() { _ = srv.Serve(ln) }() // until close
	return nil
}

// content is what the destination answers: cases of flow control need a few
// bytes.
const content = "0123456789abcdef"

func answer(w http.ResponseWriter, req *http.Request) {
	_, _ = io.Copy(io.Discard, req.Body) // the client may have gone
	w.Header().Set("content-length", strconv.Itoa(len(content)))
	_, _ = io.WriteString(w, content)
}

// startTCP starts the destination that speaks TCP. It, too, answers when it has
// read everything.
func (m *mesh) startTCP() error {
	ln, err := net.Listen("tcp", netip.AddrPortFrom(m.app, tcpPort).String())
	if err != nil {
		return err
	}
	m.closers = append(m.closers, ln)
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				defer nc.Close()
				if _, err := io.Copy(io.Discard, nc); err == nil {
					_, _ = io.WriteString(nc, content)
				}
			}()
		}
	}()
	return nil
}

// startTranslator has a translator listen at the address of the Service tcp.
func (m *mesh) startTranslator() error {
	ln, err := net.Listen("tcp", netip.AddrPortFrom(m.tcpVIP, tcpVIPPort).String())
	if err != nil {
		return err
	}
	t := &translator{Listener: ln, waypoint: netip.AddrPortFrom(m.waypoint, hbonePort).String(), tls: m.tls}
	m.closers = append(m.closers, t)
	go t.serve()
	return nil
}

// startWaypoint returns when the waypoint says that it is ready.
func (m *mesh) startWaypoint(ctx context.Context, program string, verbose bool) error {
	ready := netip.AddrPortFrom(m.waypoint, readyPort).String()
	m.cmd = exec.CommandContext(ctx, program,
		"--gateway", "default/waypoint",
		"--config", filepath.Join(m.dir, "mesh.yaml"),
		"--identity", "files:"+m.ids.dir,
		"--hbone-address", netip.AddrPortFrom(m.waypoint, hbonePort).String(),
		"--readiness", ready, "--admin", "off", "--metrics", "off", "--access-log", "off")
	// Two cases send the longest frame that the server did not allow, and mean
	// 16384 by it whatever SETTINGS say (RFC 9113, section 6.5.2).
	m.cmd.Env = append(os.Environ(), "HTTP2_FRAME_SIZE="+strconv.Itoa(16<<10))
	if verbose {
		m.cmd.Stdout, m.cmd.Stderr = os.Stderr, os.Stderr
	}
	if err := m.cmd.Start(); err != nil {
		return err
	}
	m.exited = make(chan error, 1)
	go func() { m.exited <- m.cmd.Wait() }()
	poll, give := time.NewTicker(20*time.Millisecond), time.After(20*time.Second)
	defer poll.Stop()
	for {
		select {
		case <-poll.C:
			res, err := http.Get("http://" + ready + "/healthz/ready")
			if err != nil {
				continue
			}
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		case err := <-m.exited:
			m.cmd = nil
			return fmt.Errorf("waypoint: ended: %w (--verbose shows its log)", err)
		case <-give:
			return errors.New("waypoint: not ready in 20 s (--verbose shows its log)")
		}
	}
}

// stopWaypoint has the waypoint drain; that it ends well after all it was put
// through is part of what is tested.
func (m *mesh) stopWaypoint() error {
	if m.cmd == nil {
		return nil
	}
	defer func() { m.cmd = nil }()
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("waypoint: SIGTERM: %w", err)
	}
	select {
	case err := <-m.exited:
		if err != nil {
			return fmt.Errorf("waypoint: after SIGTERM: %w", err)
		}
		return nil
	case <-time.After(15 * time.Second):
		_ = m.cmd.Process.Kill()
		return errors.New("waypoint: still there 15 s after SIGTERM")
	}
}

func (m *mesh) close() {
	if m.cmd != nil {
		_ = m.cmd.Process.Kill()
		<-m.exited
	}
	for _, c := range m.closers {
		_ = c.Close() // all of it is going away
	}
}
