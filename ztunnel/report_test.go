package ztunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
)

// TestFlagsOfFailures has every way to fail. How the errors of hbone come about is
// tested there.
func TestFlagsOfFailures(t *testing.T) {
	dial := func(err error) error {
		return fmt.Errorf("%w; trying web-2 next, 1 of 2", &hbone.DialError{Addr: netip.MustParseAddrPort("10.0.0.7:15008"), Err: err})
	}
	alert := &net.OpError{Op: "remote error", Err: errors.New("tls: unknown certificate authority")}
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, "-"},
		{&statusError{401, fmt.Errorf("%w: explicitly denied by: a/b", errPolicy)}, "DENY"},
		{errPolicyChanged, "DENY"},
		{errBypassed, "DENY"},
		{&hbone.StatusError{Status: 401}, "DENY"},
		{&hbone.StatusError{Status: 503}, "CONNECT"},
		{errNotInRegistry, "NR"},
		{errFull, "UO"},
		{errIdentityFull, "UO"},
		{dial(&hbone.HandshakeError{Err: &identity.MismatchError{}}), "TLS_FAILURE"},
		{dial(&hbone.HandshakeError{Err: errors.New("x509: expired")}), "TLS_FAILURE"},
		{dial(&hbone.HandshakeError{Err: context.DeadlineExceeded}), "TLS_FAILURE"},
		{dial(&hbone.HandshakeError{NoneOfOurs: true, Err: context.DeadlineExceeded}), "IDENTITY_ERROR"},
		{dial(&hbone.HandshakeError{Err: &identity.RevokedError{}}), "CERT_REVOKED"},
		{&identity.RevokedError{}, "CERT_REVOKED"},
		{dial(fmt.Errorf("%w (%w)", hbone.ErrEnded, alert)), "TLS_FAILURE"},
		{dial(fmt.Errorf("%w (%w)", hbone.ErrEnded, syscall.ECONNRESET)), "H2_HANDSHAKE_FAILURE"},
		{dial(os.ErrDeadlineExceeded), "NETWORK_POLICY"},
		{dial(context.DeadlineExceeded), "NETWORK_POLICY"},
		{dial(syscall.ECONNREFUSED), "CONNECT"},
		{context.DeadlineExceeded, "CONNECT"}, // of a plain connection
		{errDrained, "CONNECT"},
		{errGone, "CONNECT"},
		{errors.New("anything else"), "CONNECT"},
	} {
		if got := flagOf(c.err); got.String() != c.want {
			t.Errorf("%v: %v, want %s", c.err, got, c.want)
		}
	}
}
