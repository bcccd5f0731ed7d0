package ztunnel

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/waystone-mesh/waystone/internal/netns"
)

// handoverTime is how long a listener goes on after it was told to close: until
// those have come who had begun to connect. 500 ms, many round trips.
const handoverTime = 500 * time.Millisecond

// A handover is a listener at a port that another process may listen at too, and
// takes over: when it is closed, what is begun from then on goes to the other,
// and what had been begun before is still accepted.
type handover struct {
	*net.TCPListener
	once sync.Once
	err  error
}

// Accept returns what had been begun, and then net.ErrClosed.
func (l *handover) Accept() (net.Conn, error) {
	c, err := l.TCPListener.Accept()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		l.TCPListener.Close()
		return nil, net.ErrClosed
	}
	return c, err
}

// Close returns at once; Accept then ends in time.
func (l *handover) Close() error {
	l.once.Do(func() {
		if netns.HandOver(l.TCPListener) != nil {
			l.err = l.TCPListener.Close()
			return
		}
		l.err = l.SetDeadline(time.Now().Add(handoverTime))
	})
	return l.err
}

// abandon closes without that.
func (l *handover) abandon() error { return l.TCPListener.Close() }
