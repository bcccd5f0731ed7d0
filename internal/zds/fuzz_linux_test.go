package zds

import (
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/waystone-mesh/waystone/internal/zds/zdsapi"
	"github.com/waystone-mesh/waystone/internal/zds/zdstest"
)

// closer is a Handler that refuses every second pod.
type closer struct{ pods int }

func (c *closer) Add(p Pod) error {
	p.Netns.Close()
	if c.pods++; c.pods%2 == 0 {
		return os.ErrInvalid
	}
	return nil
}
func (*closer) Keep(string)   {}
func (*closer) Remove(string) {}
func (*closer) Synced()       {}

func pair(f testing.TB) (a, b *net.UnixConn) {
	f.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		f.Fatal(err)
	}
	var list [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "")
		c, err := net.FileConn(file)
		file.Close()
		if err != nil {
			f.Fatal(err)
		}
		f.Cleanup(func() { c.Close() })
		list[i] = c.(*net.UnixConn)
	}
	return list[0], list[1]
}

// FuzzExchange sends a client any bytes with any descriptors: each message is
// answered once, and no descriptor is left open. Of which, each byte says what
// one is: of a network namespace if it is odd.
func FuzzExchange(f *testing.F) {
	for _, m := range []*zdsapi.WorkloadRequest{
		zdstest.Add("uid", "namespace", "name", "service-account"), zdstest.Add("uid", "", "", ""), zdstest.Add("", "", "", ""),
		zdstest.Keep("uid"), zdstest.Del("uid"), zdstest.Snapshot(), {},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		for _, fds := range []string{"", "\x01", "\x00", "\x01\x01", "\x01\x00\x01\x01\x01\x01\x01\x01\x01\x01"} {
			f.Add(b, []byte(fds))
		}
	}
	f.Add(make([]byte, maxMessage+1), []byte("\x01"))
	f.Add([]byte("\xff"), []byte("\x01"))
	agent, ours := pair(f)
	ns, other := openFD(f, thisNetns), openFD(f, os.DevNull)
	c, err := New(Options{Path: "none", Handler: &closer{}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b, kinds []byte) {
		if len(b) == 0 || len(b) > 4*maxMessage || len(kinds) > 64 {
			return // an empty message is the end
		}
		var fds []int
		for _, k := range kinds {
			fds = append(fds, map[bool]int{true: ns, false: other}[k%2 == 1])
		}
		var rights []byte
		if len(fds) > 0 {
			rights = unix.UnixRights(fds...)
		}
		before := openFiles(t)
		if _, _, err := agent.WriteMsgUnix(b, rights, nil); err != nil {
			t.Fatal(err)
		}
		if err := c.exchange(ours); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, maxMessage+1)
		n, err := agent.Read(answer)
		if err != nil || n > maxMessage {
			t.Fatalf("answer of %d bytes, %v", n, err)
		}
		var resp zdsapi.WorkloadResponse
		if err := proto.Unmarshal(answer[:n], &resp); err != nil || resp.GetAck() == nil {
			t.Fatalf("answer %v, %v", &resp, err)
		}
		if got := openFiles(t); got != before {
			t.Fatalf("%d descriptors are open, %d before", got, before)
		}
	})
}

// FuzzDescriptors reads control data as no kernel writes it.
func FuzzDescriptors(f *testing.F) {
	f.Add(unix.UnixRights(1, 2, 3))
	f.Add(append(unix.UnixRights(1), unix.UnixRights(2)...))
	f.Add(unix.UnixCredentials(&unix.Ucred{Pid: 1}))
	f.Add(unix.UnixRights(1)[:5])
	short := unix.UnixRights(1, 2)
	short[0]-- // three bytes of the second are the message's
	f.Add(short)
	f.Fuzz(func(t *testing.T, b []byte) {
		if fds := descriptors(b); len(fds) > len(b)/4 {
			t.Errorf("%d descriptors in %d bytes", len(fds), len(b))
		}
	})
}
