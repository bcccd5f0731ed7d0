package hbone

import (
	"crypto/tls"
	"errors"

	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// Recheck cuts the connections that f has something against, with its error, which
// their tunnels are told: a certificate of the peer's chain has been revoked, say.
// It does not wait. f is called on the loops.
func (srv *Server) Recheck(f func(*tls.ConnectionState) error) {
	srv.each(func(on *serverLoop) {
		for c := range on.conns {
			c.recheck(f)
		}
	})
}

// Recheck does what [Server.Recheck] does, at once.
func (p *Pool) Recheck(f func(*tls.ConnectionState) error) {
	for c := range p.conns {
		c.recheck(f)
	}
}

func (c *conn) recheck(f func(*tls.ConnectionState) error) {
	state := c.sock.TLS()
	if err := f(&state); err != nil {
		c.sock.Abort(err)
	}
}

// distrusted looks at a connection that a loop is about to take over, and cuts it
// when its peer's certificate has been revoked since the handshake: Recheck could
// not know of it yet.
func distrusted(src identity.Source, sock *loop.Socket) error {
	state := sock.TLS()
	err, ok := errors.AsType[*identity.RevokedError](identity.CheckRevoked(src, &state))
	if !ok {
		return nil
	}
	sock.Abort(err)
	return err
}
