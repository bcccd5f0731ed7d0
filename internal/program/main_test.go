package program

import (
	"errors"
	"fmt"
	"testing"

	"github.com/spf13/cobra"
)

// three is an error that is an exit status.
type three struct{}

func (three) Error() string   { return "exit status 3" }
func (three) ExitStatus() int { return 3 }

func TestMainEndsAsItsErrorSays(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{{nil, 0}, {errors.New("no"), 1}, {three{}, 3}, {fmt.Errorf("x: %w", three{}), 3}} {
		c := &cobra.Command{SilenceErrors: true, SilenceUsage: true, RunE: func(*cobra.Command, []string) error { return tt.err }}
		c.SetArgs([]string{})
		if got := Main(c); got != tt.want {
			t.Errorf("%v: got %d, want %d", tt.err, got, tt.want)
		}
	}
}
