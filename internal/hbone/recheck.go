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

// Revoked returns what tells Recheck of peers whose certificates are revoked by the
// lists of src. told is told of each connection that is to be cut, and of each that is
// not, because who has revoked its certificate is not known to be its issuer.
func Revoked(src identity.Source, told func(err error, cut bool)) func(*tls.ConnectionState) error {
	return func(state *tls.ConnectionState) error {
		err := identity.CheckRevoked(src, state)
		if err == nil {
			return nil
		}
		_, cut := errors.AsType[*identity.RevokedError](err)
		if told(err, cut); !cut {
			return nil
		}
		return err
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
