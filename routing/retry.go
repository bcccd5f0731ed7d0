package routing

import "sync/atomic"

// A Failure is how an attempt at an upstream ended without a response.
type Failure uint8

// The failures.
const (
	NoFailure      Failure = iota
	ConnectFailure         // no connection or no tunnel came about: no byte of the request left
	RefusedStream          // the peer says that it processed nothing (REFUSED_STREAM, or GOAWAY below the stream)
	Reset                  // the upstream went away before it answered
	Timeout                // it did not answer in time
)

func (f Failure) String() string {
	return [...]string{"none", "connect-failure", "refused-stream", "reset", "timeout"}[f]
}

// DefaultRetries is how often an exchange is tried again when nothing says
// otherwise: Istio's default.
const DefaultRetries = 2

// Retryable reports whether an attempt that failed in this way may be made
// again. Sent is whether any byte of the request may have reached the
// application.
//
// Only what certainly was not processed is: a request that may have been must
// not happen twice unless a policy says that it may.
func (f Failure) Retryable(sent bool) bool {
	switch f {
	case ConnectFailure:
		return !sent
	case RefusedStream:
		return true // on the peer's word, whatever was sent
	}
	return false
}

// A Budget bounds the retries towards one destination to a fifth of its
// requests, and some more at first, so that a destination in trouble is not
// sent several times the load it could not bear. The zero Budget is ready; it
// is safe for concurrent use. It has no clock: a destination that nobody asks
// for earns nothing, and needs nothing.
type Budget struct {
	spent atomic.Int64 // thousandths of a retry; below zero are savings
}

const (
	retryCost    = 1000
	requestEarns = 200     // a retry for every five requests
	reserve      = 10_000  // ten retries before the first request has earned any
	maxSavings   = 100_000 // a hundred: what a quiet hour may pay for in a bad second
)

// Request counts a first attempt.
func (b *Budget) Request() {
	for {
		spent := b.spent.Load()
		if spent <= -maxSavings {
			return // a healthy destination costs one load and no shared write
		}
		if b.spent.CompareAndSwap(spent, max(-maxSavings, spent-requestEarns)) {
			return
		}
	}
}

// Retry asks for one retry and reports whether it may be made.
func (b *Budget) Retry() bool {
	for {
		spent := b.spent.Load()
		if spent+retryCost > reserve {
			return false
		}
		if b.spent.CompareAndSwap(spent, spent+retryCost) {
			return true
		}
	}
}
