package config

import (
	"time"

	"github.com/waystone-mesh/waystone/authz/jwt"
)

// TokenSources returns where the keys are that tokens are verified with, and how
// long fetching them may take: of the RequestAuthentications that are attached to
// what our waypoint serves. The map is not the caller's to change.
func (s *Snapshot) TokenSources() map[jwt.Source]time.Duration { return s.sources }

// RequestAuthentications returns those that were accepted, in the order of their
// keys. The node tunnel has none. The slice is not the caller's to change.
func (s *Snapshot) RequestAuthentications() []*jwt.RequestAuthentication { return s.tokens }

// uses counts the sets of RequestAuthentications that destinations have.
type uses map[*jwt.Set]int

// change counts that a destination has now in the place of old; nil: none.
func (u uses) change(old, now *jwt.Set) (changed bool) {
	if old == now {
		return false
	}
	if now != nil {
		u[now]++
		changed = u[now] == 1
	}
	if old != nil {
		if u[old]--; u[old] == 0 {
			delete(u, old)
			changed = true
		}
	}
	return changed
}

// sources returns where the keys are that the sets need, and how long fetching
// them may take.
func (u uses) sources() map[jwt.Source]time.Duration {
	out := map[jwt.Source]time.Duration{}
	for set := range u {
		for source, timeout := range set.Sources() {
			out[source] = max(out[source], timeout)
		}
	}
	return out
}

// tokensOf returns what a Destination asks of tokens.
func tokensOf(d *Destination) *jwt.Set {
	if d == nil {
		return nil
	}
	return d.Tokens
}
