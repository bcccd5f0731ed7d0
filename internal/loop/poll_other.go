//go:build !linux

package loop

// newPoller returns what a loop waits on.
func newPoller(bool) (poller, error) { return newChanPoller(), nil }
