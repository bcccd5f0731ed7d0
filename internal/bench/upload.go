package bench

// A writer is what content is written to; its bytes that cannot leave at once
// are counted, and reported when they do.
type writer interface{ Write(p []byte) (queued int) }

// An upload is what is left to write of a request.
type upload struct {
	rest    []byte
	waiting int // bytes written that have not left
}

// The most of an upload that waits, and the most that is written at a time, so
// that no tunnel has more in memory than keeps it busy.
const (
	maxWaiting = 128 << 10
	maxWrite   = 64 << 10
)

// pump writes what there is room for, and reports whether that was the last.
func (u *upload) pump(w writer) bool {
	for len(u.rest) > 0 && u.waiting < maxWaiting {
		n := min(len(u.rest), maxWrite)
		p := u.rest[:n]
		u.rest = u.rest[n:] // before it is reported
		u.waiting += w.Write(p)
	}
	return len(u.rest) == 0
}
