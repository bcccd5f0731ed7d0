package zds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waystone-mesh/waystone/internal/zds/zdstest"
)

// thisNetns is a network namespace that needs no rights to open.
const thisNetns = "/proc/self/ns/net"

// A recorder is a Handler that passes on what it is told.
type recorder struct {
	told chan string
	add  atomic.Pointer[func() error] // nil: no error
}

func newRecorder() *recorder { return &recorder{told: make(chan string, 64)} }

func (r *recorder) Add(p Pod) error {
	defer p.Netns.Close()
	r.told <- fmt.Sprintf("add %s %s/%s %s", p.UID, p.Namespace, p.Name, p.ServiceAccount)
	if add := r.add.Load(); add != nil {
		return (*add)()
	}
	return nil
}
func (r *recorder) Keep(uid string)   { r.told <- "keep " + uid }
func (r *recorder) Remove(uid string) { r.told <- "remove " + uid }
func (r *recorder) Synced()           { r.told <- "synced" }

// want fails the test unless the Handler is told this next, in any order.
func (r *recorder) want(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for range want {
		select {
		case s := <-r.told:
			got = append(got, s)
		case <-time.After(10 * time.Second):
			t.Fatalf("told of %q, want %q", got, want)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("told of %q, want %q", got, want)
	}
}

func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "zds") //nolint:usetesting // t.TempDir may be longer than sockets' paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "z.sock")
}

// run runs a client until the returned function is called.
func run(t *testing.T, c *Client) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		ended <- nil
	}
	t.Cleanup(stop)
	return stop
}

func newClient(t *testing.T, o Options) *Client {
	t.Helper()
	if o.MinBackoff == 0 {
		o.MinBackoff = time.Millisecond
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// openFiles returns how many descriptors this process has.
func openFiles(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// wantOpen wants as many descriptors as before: those of connections that were
// closed under a reader go when it has returned.
func wantOpen(t testing.TB, before int) {
	t.Helper()
	deadline := time.After(5 * time.Second)
	for got := openFiles(t); got != before; got = openFiles(t) {
		select {
		case <-time.After(time.Millisecond):
		case <-deadline:
			t.Errorf("%d descriptors are open, %d before", got, before)
			return
		}
	}
}

func startAgent(t *testing.T, path string) *zdstest.Agent {
	t.Helper()
	a := zdstest.NewAgent()
	if err := a.Listen(path); err != nil {
		t.Fatal(err)
	}
	return a
}

// listen listens at path, for a test that sends messages by itself.
func listen(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func accept(t *testing.T, ln *net.UnixListener) *zdstest.Conn {
	t.Helper()
	c, err := zdstest.Accept(ln)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Hello(); err != nil {
		t.Fatal(err)
	}
	return c
}

func netnsFD(t testing.TB) int { return openFD(t, thisNetns) }

func openFD(t testing.TB, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestSnapshotAndChanges(t *testing.T) {
	path, r := socketPath(t), newRecorder()
	listen(t, socketPath(t)) // so that the poller has its descriptors
	before := openFiles(t)
	agent := startAgent(t, path)
	defer agent.Close()
	for _, name := range []string{"a", "b"} {
		if err := agent.Add("uid-"+name, "ns", name, "sa", thisNetns); err != nil {
			t.Fatal(err)
		}
	}
	connected := make(chan bool, 2)
	stop := run(t, newClient(t, Options{Path: path, Handler: r, Connected: func(up bool) { connected <- up }}))
	r.want(t, "add uid-a ns/a sa", "add uid-b ns/b sa")
	r.want(t, "synced")
	agent.WaitFor(1)
	if err := agent.Add("uid-c", "ns", "c", "", thisNetns); err != nil {
		t.Fatal(err)
	}
	r.want(t, "add uid-c ns/c ")
	if err := agent.Remove("uid-a"); err != nil {
		t.Fatal(err)
	}
	r.want(t, "remove uid-a")
	stop()
	if up, down := <-connected, <-connected; !up || down {
		t.Errorf("Connected was told %v and then %v, want true and false", up, down)
	}
	agent.Close()
	wantOpen(t, before)
}

func TestRefusalIsTheAnswer(t *testing.T) {
	path, r := socketPath(t), newRecorder()
	agent := startAgent(t, path)
	defer agent.Close()
	run(t, newClient(t, Options{Path: path, Handler: r}))
	r.want(t, "synced")
	agent.WaitFor(1)
	for _, test := range []struct{ name, reason, want string }{
		{"short", "port 15008 is taken", "pod ns/a: port 15008 is taken"},
		{"not UTF-8", "port \xff", "pod ns/a: port ?"},
		{"longer than a message", strings.Repeat("é", 2000), "pod ns/a: " + strings.Repeat("é", (maxMessage-16-len("pod ns/a: "))/2)},
	} {
		t.Run(test.name, func(t *testing.T) {
			refuse := func() error { return errors.New(test.reason) }
			r.add.Store(&refuse)
			err := agent.Add("uid-a", "ns", "a", "sa", thisNetns)
			if err == nil || err.Error() != test.want {
				t.Errorf("Add: %v, want %q", err, test.want)
			}
			r.want(t, "add uid-a ns/a sa")
		})
	}
	r.add.Store(nil)
	if err := agent.Add("uid-b", "ns", "b", "sa", thisNetns); err != nil {
		t.Errorf("the next pod: %v", err)
	}
}

// TestReconnect is the agent's restart: pods stay, and those that went meanwhile
// are removed when it has told of the others, not before.
func TestReconnect(t *testing.T) {
	path, r := socketPath(t), newRecorder()
	ln := listen(t, path)
	fd := netnsFD(t)
	run(t, newClient(t, Options{Path: path, Handler: r}))
	send := func(c *zdstest.Conn, uids ...string) {
		t.Helper()
		for _, uid := range uids {
			if refused, err := c.Send(zdstest.Add(uid, "ns", uid, "sa"), fd); refused != "" || err != nil {
				t.Fatal(refused, err)
			}
		}
	}
	snapshot := func(c *zdstest.Conn) {
		t.Helper()
		if refused, err := c.Send(zdstest.Snapshot()); refused != "" || err != nil {
			t.Fatal(refused, err)
		}
	}
	first := accept(t, ln)
	send(first, "a", "b", "c", "d")
	snapshot(first)
	r.want(t, "add a ns/a sa", "add b ns/b sa", "add c ns/c sa", "add d ns/d sa", "synced")
	first.Close()

	// The second connection ends before its snapshot: nothing is removed.
	second := accept(t, ln)
	send(second, "a")
	second.Close()
	r.want(t, "add a ns/a sa")

	third := accept(t, ln)
	send(third, "b", "e")
	if refused, err := third.Send(zdstest.Keep("c")); refused != "" || err != nil {
		t.Fatal(refused, err)
	}
	// Not removed: its message is malformed, but the agent knows it.
	if refused, err := third.Send(zdstest.Add("d", "ns", "d", "sa")); refused == "" || err != nil {
		t.Fatal(refused, err)
	}
	r.want(t, "add b ns/b sa", "add e ns/e sa", "keep c")
	snapshot(third)
	r.want(t, "remove a")
	r.want(t, "synced")
}

// TestDelBeforeSnapshot is of a pod that goes while the agent tells of all.
func TestDelBeforeSnapshot(t *testing.T) {
	path, r := socketPath(t), newRecorder()
	ln := listen(t, path)
	run(t, newClient(t, Options{Path: path, Handler: r}))
	c := accept(t, ln)
	for _, step := range []func() (string, error){
		func() (string, error) { return c.Send(zdstest.Add("a", "ns", "a", "sa"), netnsFD(t)) },
		func() (string, error) { return c.Send(zdstest.Del("a")) },
		func() (string, error) { return c.Send(zdstest.Snapshot()) },
	} {
		if refused, err := step(); refused != "" || err != nil {
			t.Fatal(refused, err)
		}
	}
	r.want(t, "add a ns/a sa")
	r.want(t, "remove a")
	r.want(t, "synced")
}

func TestMalformedMessagesAreRefused(t *testing.T) {
	path, r := socketPath(t), newRecorder()
	ln := listen(t, path)
	run(t, newClient(t, Options{Path: path, Handler: r}))
	c := accept(t, ln)
	if refused, err := c.Send(zdstest.Snapshot()); refused != "" || err != nil {
		t.Fatal(refused, err)
	}
	r.want(t, "synced")
	ns := netnsFD(t)
	null := openFD(t, os.DevNull)
	before := openFiles(t)
	noInfo := zdstest.Add("a", "", "", "")
	noInfo.GetAdd().WorkloadInfo = nil
	many := slices.Repeat([]int{ns}, 40)
	for _, test := range []struct {
		name string
		send func() (string, error)
		want string
	}{
		{"of a later version", func() (string, error) { return c.SendBytes([]byte{0x4a, 0}) }, "none of the messages that are known"},
		{"of a later version with a descriptor", func() (string, error) { return c.SendBytes([]byte{0x4a, 0}, ns) }, "none of the messages that are known"},
		{"not protobuf", func() (string, error) { return c.SendBytes([]byte("\xff\xff\xff"), ns) }, "not a WorkloadRequest"},
		{"add without uid", func() (string, error) { return c.Send(zdstest.Add("", "ns", "a", "sa"), ns) }, "add: uid is missing"},
		{"add without info", func() (string, error) { return c.Send(noInfo, ns) }, "add: workload_info is missing"},
		{"add without descriptor", func() (string, error) { return c.Send(zdstest.Add("a", "ns", "a", "sa")) }, "add: 0 descriptors came along"},
		{"add with two", func() (string, error) { return c.Send(zdstest.Add("a", "ns", "a", "sa"), ns, ns) }, "add: 2 descriptors came along"},
		{"add with many", func() (string, error) { return c.Send(zdstest.Add("a", "ns", "a", "sa"), many...) }, "add: descriptors were lost"},
		{"add with another descriptor", func() (string, error) { return c.Send(zdstest.Add("a", "ns", "a", "sa"), null) }, "is not of a namespace"},
		{"keep without uid", func() (string, error) { return c.Send(zdstest.Keep("")) }, "keep: uid is missing"},
		{"keep after the snapshot", func() (string, error) { return c.Send(zdstest.Keep("a")) }, "keep: only pods of the snapshot"},
		{"keep with a descriptor", func() (string, error) { return c.Send(zdstest.Keep("a"), ns) }, "keep: 1 descriptors came along, want none"},
		{"del with a descriptor", func() (string, error) { return c.Send(zdstest.Del("a"), ns) }, "del: 1 descriptors came along, want none"},
		{"snapshot twice", func() (string, error) { return c.Send(zdstest.Snapshot()) }, "snapshot_sent: it has been sent before"},
		{"too long", func() (string, error) {
			return c.Send(zdstest.Add("a", strings.Repeat("n", maxMessage), "a", "sa"), ns)
		}, "longer than 1024 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			refused, err := test.send()
			if err != nil || !strings.Contains(refused, test.want) {
				t.Errorf("answer %q, %v; want %q", refused, err, test.want)
			}
			wantOpen(t, before)
		})
	}
	if refused, err := c.Send(zdstest.Add("b", "ns", "b", "sa"), ns); refused != "" || err != nil {
		t.Errorf("a good message after the bad: %q, %v", refused, err)
	}
	r.want(t, "add b ns/b sa")
}

// TestLateAnswerIsNotSent: the agent would take it for that to its next message.
func TestLateAnswerIsNotSent(t *testing.T) {
	path, r := socketPath(t), newRecorder()
	ln := listen(t, path)
	client := newClient(t, Options{Path: path, Handler: r})
	client.patience = time.Millisecond
	slow := func() error {
		<-time.After(2 * client.patience)
		return nil
	}
	r.add.Store(&slow)
	run(t, client)
	c := accept(t, ln)
	if refused, err := c.Send(zdstest.Add("a", "ns", "a", "sa"), netnsFD(t)); err == nil {
		t.Errorf("answered with %q, want the connection to end", refused)
	}
	accept(t, ln)
}

// TestUpgrade has two tunnels at the agent: the newer gets what is added, both
// what goes.
func TestUpgrade(t *testing.T) {
	path := socketPath(t)
	agent := startAgent(t, path)
	defer agent.Close()
	old, young := newRecorder(), newRecorder()
	stopOld := run(t, newClient(t, Options{Path: path, Handler: old}))
	old.want(t, "synced")
	agent.WaitFor(1)
	if err := agent.Add("a", "ns", "a", "sa", thisNetns); err != nil {
		t.Fatal(err)
	}
	old.want(t, "add a ns/a sa")
	run(t, newClient(t, Options{Path: path, Handler: young}))
	young.want(t, "add a ns/a sa")
	young.want(t, "synced")
	agent.WaitFor(2)
	if err := agent.Add("b", "ns", "b", "sa", thisNetns); err != nil {
		t.Fatal(err)
	}
	young.want(t, "add b ns/b sa")
	if err := agent.Remove("a"); err != nil {
		t.Fatal(err)
	}
	young.want(t, "remove a")
	old.want(t, "remove a")
	stopOld()
	if err := agent.Add("c", "ns", "c", "sa", thisNetns); err != nil {
		t.Fatal(err)
	}
	young.want(t, "add c ns/c sa")
}

// retries is a slog.Handler that notes how long it is said to be until the next
// try.
type retries struct {
	slog.Handler
	waits *[]time.Duration
}

func (r retries) Enabled(context.Context, slog.Level) bool { return true }
func (r retries) Handle(_ context.Context, rec slog.Record) error {
	rec.Attrs(func(a slog.Attr) bool {
		if a.Key == "retry" {
			*r.waits = append(*r.waits, a.Value.Duration())
		}
		return true
	})
	return nil
}

func TestBackoffDoubles(t *testing.T) {
	path := socketPath(t)
	synctest.Test(t, func(t *testing.T) {
		var waits []time.Duration
		c, err := New(Options{Path: path, Handler: newRecorder(), Log: slog.New(retries{slog.DiscardHandler, &waits})})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
		want := []time.Duration{
			10 * time.Millisecond, 20 * time.Millisecond, 40 * time.Millisecond, 80 * time.Millisecond,
			160 * time.Millisecond, 320 * time.Millisecond, 640 * time.Millisecond, 1280 * time.Millisecond,
			2560 * time.Millisecond, 5120 * time.Millisecond, 10240 * time.Millisecond, 15 * time.Second, 15 * time.Second, 15 * time.Second,
		}
		if !slices.Equal(waits, want) {
			t.Errorf("waits are %v, want %v", waits, want)
		}
	})
}

func TestNewWantsPathAndHandler(t *testing.T) {
	for _, o := range []Options{{}, {Path: "x"}, {Handler: newRecorder()}} {
		if _, err := New(o); err == nil {
			t.Errorf("New(%+v): no error", o)
		}
	}
}
