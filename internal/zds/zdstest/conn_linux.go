package zdstest

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/waystone-mesh/waystone/internal/zds/zdsapi"
)

// deadline is how long a tunnel may take to speak when it should, as istio-cni
// has it: 5 s.
const deadline = 5 * time.Second

// A Conn is a connection from a tunnel, whose messages a test sends by itself.
type Conn struct {
	unix *net.UnixConn
}

// Accept takes a connection from a listener for "unixpacket".
func Accept(ln *net.UnixListener) (*Conn, error) {
	c, err := ln.AcceptUnix()
	if err != nil {
		return nil, err
	}
	return &Conn{c}, nil
}

// NewConn returns a connection that has been made otherwise.
func NewConn(c *net.UnixConn) *Conn { return &Conn{c} }

// Close closes the connection.
func (c *Conn) Close() error { return c.unix.Close() }

// Hello reads the tunnel's greeting.
func (c *Conn) Hello() error {
	var hello zdsapi.ZdsHello
	if err := c.read(&hello); err != nil {
		return err
	}
	if hello.Version != zdsapi.Version_V1 {
		return fmt.Errorf("hello of version %v, want V1", hello.Version)
	}
	return nil
}

// Send sends a message and waits for the answer, whose error text it returns.
func (c *Conn) Send(m *zdsapi.WorkloadRequest, fds ...int) (refused string, err error) {
	b, err := proto.Marshal(m)
	if err != nil {
		return "", err
	}
	return c.SendBytes(b, fds...)
}

// SendBytes is Send of any bytes.
func (c *Conn) SendBytes(b []byte, fds ...int) (refused string, err error) {
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := c.unix.WriteMsgUnix(b, rights, nil); err != nil {
		return "", err
	}
	var answer zdsapi.WorkloadResponse
	if err := c.read(&answer); err != nil {
		return "", err
	}
	if answer.GetAck() == nil {
		return "", errors.New("an answer that is no ack")
	}
	return answer.GetAck().Error, nil
}

func (c *Conn) read(m proto.Message) error {
	if err := c.unix.SetReadDeadline(time.Now().Add(deadline)); err != nil {
		return err
	}
	b := make([]byte, 1024)
	n, _, flags, _, err := c.unix.ReadMsgUnix(b, nil)
	if err != nil {
		return err
	}
	if flags&unix.MSG_TRUNC != 0 {
		return fmt.Errorf("a message of more than %d bytes", len(b))
	}
	return proto.Unmarshal(b[:n], m)
}

// Add is the message of a pod, to go with its network namespace.
func Add(uid, namespace, name, serviceAccount string) *zdsapi.WorkloadRequest {
	return &zdsapi.WorkloadRequest{Payload: &zdsapi.WorkloadRequest_Add{Add: &zdsapi.AddWorkload{
		Uid: uid, WorkloadInfo: &zdsapi.WorkloadInfo{Name: name, Namespace: namespace, ServiceAccount: serviceAccount},
	}}}
}

// Keep is the message of a pod without network namespace.
func Keep(uid string) *zdsapi.WorkloadRequest {
	return &zdsapi.WorkloadRequest{Payload: &zdsapi.WorkloadRequest_Keep{Keep: &zdsapi.KeepWorkload{Uid: uid}}}
}

// Del is the message of a pod that is gone.
func Del(uid string) *zdsapi.WorkloadRequest {
	return &zdsapi.WorkloadRequest{Payload: &zdsapi.WorkloadRequest_Del{Del: &zdsapi.DelWorkload{Uid: uid}}}
}

// Snapshot is the message that all pods have been told of.
func Snapshot() *zdsapi.WorkloadRequest {
	return &zdsapi.WorkloadRequest{Payload: &zdsapi.WorkloadRequest_SnapshotSent{SnapshotSent: &zdsapi.SnapshotSent{}}}
}
