package waypointcmd

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"time"

	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/jwks"
	"github.com/waystone-mesh/waystone/internal/program"
)

// keysPatience is how long readiness waits for the keys that tokens are verified
// with: 5 s. One issuer that is down must not keep everybody else's requests
// waiting.
const keysPatience = 5 * time.Second

// keys are the keys of those who issue the tokens that the configuration takes.
type keys struct {
	*jwks.Store
	patience time.Duration
}

// follow starts fetching what the configuration names, from now on.
func follow(p *program.Process, roots *x509.CertPool) keys {
	k := keys{jwks.New(jwks.Options{Roots: roots, Log: p.Log.Scope("jwks")}), keysPatience}
	p.Store.OnPublish(func(config.Changes) { k.Follow(p.Snapshot().TokenSources()) })
	p.Go(func() error { return k.Run(p.Context()) })
	return k
}

// ring is waypoint's Options.Keys.
func (k keys) ring() jwt.Ring { return k.Snapshot().Keys }

// settle waits until every source has been tried, but not for ever.
func (k keys) settle(p *program.Process) {
	defer p.Ready.Task("keys that tokens are verified with")()
	ctx, cancel := context.WithTimeout(p.Context(), k.patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !k.Settled() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			if p.Context().Err() != nil {
				return // it is over
			}
			p.Log.Scope("jwks").Warn("not all keys could be fetched yet: tokens of their issuers are refused until they are")
			return
		}
	}
}

// parseRoots reads the certificates of those who are trusted beside the system's
// own authorities. The value is a path.
func parseRoots(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a system without any
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("holds no certificate in PEM")
	}
	return roots, nil
}
