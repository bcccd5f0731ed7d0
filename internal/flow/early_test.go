package flow

import (
	"errors"
	"slices"
	"testing"

	"github.com/waystone-mesh/waystone/internal/bufs"
)

// taken is a Receiver that writes down what it is told.
type taken struct{ events []string }

func (r *taken) Data(p []byte) { r.events = append(r.events, string(p)) }
func (r *taken) EOF()          { r.events = append(r.events, "EOF") }
func (r *taken) Sent(int)      { r.events = append(r.events, "Sent") }
func (r *taken) Reset(error)   { r.events = append(r.events, "Reset") }

func TestEarlyHandsOverInOrder(t *testing.T) {
	before := bufs.InUse()
	var e Early
	e.Data([]byte("one "))
	e.Data([]byte("two"))
	e.EOF()
	var r taken
	e.HandTo(&r)
	if want := []string{"one two", "EOF"}; !slices.Equal(r.events, want) {
		t.Errorf("got %q, want %q", r.events, want)
	}
	if left := bufs.InUse() - before; left != 0 {
		t.Errorf("%d bytes of buffers are still out", left)
	}
}

func TestEarlyTellsOfAReset(t *testing.T) {
	before, why := bufs.InUse(), errors.New("why")
	var got error
	e := Early{Gone: func(err error) { got = err }}
	e.Data([]byte("lost"))
	e.Reset(why)
	e.Drop()
	if !errors.Is(got, why) {
		t.Errorf("got %v, want %v", got, why)
	}
	if left := bufs.InUse() - before; left != 0 {
		t.Errorf("%d bytes of buffers are still out", left)
	}
}
