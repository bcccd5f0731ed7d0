package extauthz

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/waystone-mesh/waystone/authz"
)

// inProcess returns a Client whose authorizer is ask.
func inProcess(t *testing.T, ask func(context.Context, *Request) (Answer, error)) *Client {
	t.Helper()
	c, err := New(&authz.Provider{Name: "x", Kind: authz.OPA}, Options{Ask: ask})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestShutdownWaitsForAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leave := make(chan bool)
		c := inProcess(t, func(context.Context, *Request) (Answer, error) { <-leave; return Answer{Allowed: true}, nil })
		var answers []Answer
		c.Ask(aRequest(), func(a Answer) { answers = append(answers, a) })
		down := make(chan error)
		go func() { down <- c.Shutdown(context.Background()) }()
		synctest.Wait()
		late := make(chan Answer, 1)
		c.Ask(aRequest(), func(a Answer) { late <- a })
		if a := <-late; a.Allowed || !errors.Is(a.Err, ErrClosed) {
			t.Errorf("asked late, the answer is %+v", a)
		}
		if len(answers) != 0 {
			t.Errorf("answered before: %+v", answers)
		}
		leave <- true
		if err := <-down; err != nil {
			t.Error(err)
		}
		if len(answers) != 1 || !answers[0].Allowed {
			t.Errorf("the answers are %+v", answers)
		}
		if s := c.Status(); s.Asked != 2 || s.Failed != 1 || s.Open != 0 || !errors.Is(s.LastError, ErrClosed) {
			t.Errorf("the status is %+v", s)
		}
	})
}

func TestShutdownGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inProcess(t, func(ctx context.Context, _ *Request) (Answer, error) { <-ctx.Done(); return Answer{}, ctx.Err() })
		var got Answer
		c.Ask(aRequest(), func(a Answer) { got = a })
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := c.Shutdown(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if got.Allowed || got.Err == nil || got.Status != 403 {
			t.Errorf("the answer is %+v", got)
		}
		c.Close() // once more does no harm
	})
}

func TestWhatIsGivenUpHasNotFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inProcess(t, func(ctx context.Context, _ *Request) (Answer, error) { <-ctx.Done(); return Answer{}, ctx.Err() })
		cancel := c.Ask(aRequest(), func(a Answer) { t.Errorf("answered %+v", a) })
		synctest.Wait()
		if s := c.Status(); s.Open != 1 {
			t.Errorf("the status is %+v", s)
		}
		cancel()
		synctest.Wait()
		if s := c.Status(); s.Asked != 1 || s.Failed != 0 || s.Open != 0 || s.LastError != nil {
			t.Errorf("the status is %+v", s)
		}
		c.Close()
	})
}

// Questions come from loops while a provider is replaced.
func TestAskAndShutdownMayMeet(t *testing.T) {
	for range 50 {
		c := inProcess(t, func(context.Context, *Request) (Answer, error) { return Answer{Allowed: true}, nil })
		var all sync.WaitGroup
		answered := make(chan Answer, 40)
		for range 4 {
			all.Go(func() {
				for range 10 {
					c.Ask(aRequest(), func(a Answer) { answered <- a })
				}
			})
		}
		all.Go(c.Close)
		all.Wait()
		for range 40 {
			if a := <-answered; !a.Allowed && !errors.Is(a.Err, ErrClosed) {
				t.Fatalf("the answer is %+v", a)
			}
		}
	}
}
