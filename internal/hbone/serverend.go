package hbone

import "context"

// Drain asks the clients to open new tunnels on other connections than those that
// there are, by GOAWAY: these end with the tunnels that they have.
func (srv *Server) Drain() { srv.each((*serverLoop).drain) }

func (on *serverLoop) drain() {
	for c := range on.conns {
		c.drain()
	}
}

// Shutdown closes the listeners, sends GOAWAY and waits until every tunnel has
// ended. When ctx is done first, what is left is cut, and its error is returned.
func (srv *Server) Shutdown(ctx context.Context) error {
	srv.mu.Lock()
	srv.stopping = true
	for ln := range srv.listeners {
		ln.Close()
	}
	srv.mu.Unlock()
	srv.each(func(on *serverLoop) {
		on.draining = true
		on.drain()
	})
	err := srv.accepted(ctx)
	if err == nil {
		err = srv.wait(ctx)
	}
	srv.stop()
	srv.wg.Wait() // every handshake has posted what came of it
	if err == nil {
		err = srv.wait(ctx) // what was being accepted when the listener closed
	}
	if err != nil {
		srv.each(func(on *serverLoop) {
			for c := range on.conns {
				c.sock.Abort(err)
			}
		})
		_ = srv.wait(context.Background()) // aborting takes no peer
	}
	return err
}

// accepted returns once nothing is accepted any more. A listener may go on after
// it was closed with what had come by then.
func (srv *Server) accepted(ctx context.Context) error {
	all := make(chan struct{})
	go func() {
		srv.accepting.Wait() // as Shutdown does
		close(all)
	}()
	select {
	case <-all:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// wait returns once no connection is open.
func (srv *Server) wait(ctx context.Context) error {
	for srv.open.Load() > 0 {
		select {
		case <-srv.idle:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	select {
	case srv.idle <- struct{}{}: // for another Shutdown
	default:
	}
	return nil
}
