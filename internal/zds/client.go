package zds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waystone-mesh/waystone/internal/zds/zdsapi"
)

// maxMessage is what either side reads of a message: 1024 bytes, as istio-cni
// and ztunnel do.
const maxMessage = 1024

// patience is how long the agent waits for an answer, and we for it to take
// one: 5 s, istio-cni's readWriteDeadline.
const patience = 5 * time.Second

// errLate ends a connection: the agent has ceased to wait, and would take our
// answer for that to its next message.
var errLate = errors.New("the agent no longer waits for an answer")

// A Client keeps a connection to the agent, and what it was told: pods that come
// again after a connection was lost are the same pods.
type Client struct {
	options  Options
	patience time.Duration

	// Owned by Run.
	pods map[string]bool // that were added, by UID: whether the agent has spoken of them since connecting
	all  bool            // the agent has told of all
}

// New returns a Client that is not connected.
func New(o Options) (*Client, error) {
	if o.Path == "" || o.Handler == nil {
		return nil, errors.New("zds: Options.Path and Handler are required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Connected == nil {
		o.Connected = func(bool) {}
	}
	if o.MinBackoff == 0 {
		o.MinBackoff = 10 * time.Millisecond
	}
	if o.MaxBackoff == 0 {
		o.MaxBackoff = 15 * time.Second
	}
	return &Client{options: o, patience: patience, pods: map[string]bool{}}, nil
}

// Run connects to the agent, again and again, and tells the Handler what it
// says, until ctx is done. While the agent is away, pods stay as they are. Run
// is called once; the Handler is called on its goroutine.
func (c *Client) Run(ctx context.Context) error {
	wait := time.Duration(0)
	for ctx.Err() == nil {
		err := c.connect(ctx)
		if ctx.Err() != nil {
			break
		}
		if c.all {
			wait = 0 // the agent is well: it is only restarting
		}
		wait = min(max(2*wait, c.options.MinBackoff), c.options.MaxBackoff)
		c.options.Log.Warn("the CNI's agent is not connected", "path", c.options.Path, "error", err, "retry", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	return nil
}

// connect serves one connection to its end.
func (c *Client) connect(ctx context.Context) error {
	c.all = false
	for uid := range c.pods {
		c.pods[uid] = false
	}
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unixpacket", c.options.Path)
	if err != nil {
		return err
	}
	conn := nc.(*net.UnixConn)
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	hello, err := proto.Marshal(&zdsapi.ZdsHello{Version: zdsapi.Version_V1})
	if err != nil {
		return err
	}
	if err := write(conn, hello); err != nil {
		return err
	}
	c.options.Connected(true)
	defer c.options.Connected(false)
	c.options.Log.Info("connected to the CNI's agent", "path", c.options.Path)
	for {
		if err := c.exchange(conn); errors.Is(err, io.EOF) {
			return errors.New("the agent closed the connection")
		} else if err != nil {
			return err
		}
	}
}

// exchange takes a message and answers it. An error is the connection's; those
// of the message are the answer.
func (c *Client) exchange(conn *net.UnixConn) error {
	m, err := receive(conn)
	var bad *messageError
	if err != nil && !errors.As(err, &bad) {
		return err
	}
	began := time.Now()
	if bad == nil {
		err = c.handle(m)
	} else {
		c.seen(m.uid) // whatever is wrong, the pod is there
	}
	if err != nil {
		c.options.Log.Error("message of the CNI's agent is refused", "message", m.kind.String(), "uid", m.uid, "error", err)
	}
	if time.Since(began) >= c.patience {
		return errLate
	}
	answer, err := ack(err)
	if err != nil {
		return err
	}
	return write(conn, answer)
}

func (c *Client) handle(m message) error {
	switch m.kind {
	case add:
		c.pods[m.uid] = true // even if it is not served yet
		if err := c.options.Handler.Add(m.pod); err != nil {
			return fmt.Errorf("pod %s/%s: %w", m.pod.Namespace, m.pod.Name, err)
		}
		c.pods[m.uid] = true
	case keep:
		if c.all {
			return errors.New("keep: only pods of the snapshot are kept, which has been sent")
		}
		if _, ok := c.pods[m.uid]; !ok {
			c.options.Log.Warn("the CNI's agent does not know the network namespace of a pod, which is not served", "uid", m.uid)
		}
		c.seen(m.uid)
		c.options.Handler.Keep(m.uid)
	case del:
		delete(c.pods, m.uid)
		c.options.Handler.Remove(m.uid)
	case snapshot:
		if c.all {
			return errors.New("snapshot_sent: it has been sent before")
		}
		c.synced()
	}
	return nil
}

// seen notes that the agent knows a pod.
func (c *Client) seen(uid string) {
	if _, ok := c.pods[uid]; ok {
		c.pods[uid] = true
	}
}

// synced removes the pods that the agent no longer has.
func (c *Client) synced() {
	c.all = true
	for uid, seen := range c.pods {
		if !seen {
			delete(c.pods, uid)
			c.options.Handler.Remove(uid)
		}
	}
	c.options.Handler.Synced()
}

func write(conn *net.UnixConn, b []byte) error {
	if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := conn.Write(b)
	return err
}
