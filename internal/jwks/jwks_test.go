package jwks

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/memnet"
)

// Key sets of one secret each, whose ID is its name.
func keySet(id string) string { return fmt.Sprintf(`{"keys":[{"kty":"oct","k":"AAAA","kid":%q}]}`, id) }

// A bubble is a Store and an issuer on a network in memory, in synctest's time.
type bubble struct {
	t     *testing.T
	store *Store
	log   lines
	start time.Time

	answer atomic.Pointer[http.HandlerFunc]
	busy   atomic.Int32
	most   atomic.Int32

	// Guarded by mu.
	mu    sync.Mutex
	times []time.Duration // of requests
	paths []string
}

var issuer = netip.MustParseAddrPort("10.0.0.9:80")

// inBubble runs f with a Store that runs.
func inBubble(t *testing.T, o Options, f func(b *bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		listener := network.Listen(issuer)
		b := &bubble{t: t, start: time.Now()}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b.mu.Lock()
			b.times = append(b.times, time.Since(b.start))
			b.paths = append(b.paths, r.URL.Path)
			b.mu.Unlock()
			b.most.Store(max(b.most.Load(), b.busy.Add(1)))
			defer b.busy.Add(-1)
			(*b.answer.Load())(w, r)
		})}
		var running sync.WaitGroup
		running.Go(func() { _ = server.Serve(listener) })
		o.Log = slog.New(slog.NewTextHandler(&b.log, nil))
		o.Dial = func(ctx context.Context, _, addr string) (net.Conn, error) {
			return network.Dial(ctx, netip.Addr{}, netip.MustParseAddrPort(addr))
		}
		b.store = New(o)
		b.say(keySet("a"))
		ctx, cancel := context.WithCancel(t.Context())
		running.Go(func() {
			if err := b.store.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		f(b)
		cancel()
		_ = server.Shutdown(t.Context()) // waits for handlers
		running.Wait()
	})
}

// lines is a log.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// do has f answer from now on.
func (b *bubble) do(f http.HandlerFunc) { b.answer.Store(&f) }

func (b *bubble) say(text string) {
	b.do(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) })
}

func (b *bubble) fail(status int) {
	b.do(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "a secret", status) })
}

// pass lets time pass.
func (b *bubble) pass(d time.Duration) { time.Sleep(d); synctest.Wait() }

// follow follows sources by path.
func (b *bubble) follow(paths ...string) {
	sources := map[jwt.Source]time.Duration{}
	for _, path := range paths {
		sources[at(path)] = 5 * time.Second
	}
	b.store.Follow(sources)
	synctest.Wait()
}

func at(path string) jwt.Source { return jwt.Source{URI: "http://10.0.0.9" + path} }

// want checks which keys there are, as path=id.
func (b *bubble) want(what string, want ...string) {
	b.t.Helper()
	got := []string{}
	for source, keys := range b.store.Snapshot().Keys {
		got = append(got, strings.TrimPrefix(source.URI, "http://10.0.0.9")+"="+strings.Join(keys.IDs(), ","))
	}
	slices.Sort(got)
	if !slices.Equal(got, append([]string{}, want...)) {
		b.t.Errorf("%s: got keys %q, want %q\n%s", what, got, want, b.log.String())
	}
}

// asked returns when there were requests, and for what.
func (b *bubble) asked() ([]time.Duration, []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.times), slices.Clone(b.paths)
}

// within checks that the i-th request came at a time, or up to a tenth of every
// wait before it earlier.
func (b *bubble) within(i int, at time.Duration) {
	b.t.Helper()
	times, _ := b.asked()
	if len(times) <= i {
		b.t.Fatalf("%d requests, want one more at %v\n%s", len(times), at, b.log.String())
	}
	if got := times[i]; got > at || got < at*9/10-time.Second {
		b.t.Errorf("request %d came after %v, want %v", i, got, at)
	}
}

func TestKeysAreRefreshed(t *testing.T) {
	inBubble(t, Options{}, func(b *bubble) {
		b.want("at first")
		b.follow("/a")
		b.want("at once", "/a=a")
		version := b.store.Snapshot().Version
		b.say(keySet("b"))
		b.pass(17 * time.Minute)
		b.want("too early", "/a=a")
		b.pass(3 * time.Minute)
		b.want("after 20 minutes", "/a=b")
		b.pass(20 * time.Minute)
		if times, _ := b.asked(); len(times) != 3 || b.store.Snapshot().Version != version+1 {
			t.Errorf("%d requests and version %d, want 3 and %d", len(times), b.store.Snapshot().Version, version+1)
		}
	})
}

func TestWhatWasNeverFetchedIsTriedSoon(t *testing.T) {
	inBubble(t, Options{}, func(b *bubble) {
		b.fail(503)
		b.follow("/a")
		if !b.store.Settled() {
			t.Error("it was tried and is not settled")
		}
		b.pass(10 * time.Minute)
		at := time.Duration(0)
		for i, wait := range []time.Duration{0, 1, 2, 4, 8, 16, 32, 60, 60, 60} {
			at += wait * time.Second
			b.within(i, at)
		}
		b.want("nothing")
		b.say(keySet("a"))
		b.pass(time.Minute)
		b.want("a minute later", "/a=a")
		if log := b.log.String(); !strings.Contains(log, "status 503") || strings.Contains(log, "secret") {
			t.Errorf("the log: %s", log)
		}
	})
}

func TestWhatWasFetchedStaysInForce(t *testing.T) {
	inBubble(t, Options{}, func(b *bubble) {
		b.follow("/a")
		b.fail(500)
		b.pass(3 * time.Hour)
		at := time.Duration(0)
		for i, wait := range []time.Duration{0, 20, 1, 2, 4, 8, 16, 20, 20} {
			at += wait * time.Minute
			b.within(i, at)
		}
		b.want("hours later", "/a=a")
		b.pass(7*24*time.Hour - 4*time.Hour)
		b.want("nearly a week later", "/a=a")
		if s := b.store.Status(); len(s) != 1 || s[0].Error != "status 500" || len(s[0].Keys) != 1 || !s[0].Fetched.Equal(b.start) || !s[0].Next.After(time.Now()) {
			t.Errorf("status: %+v", s)
		}
		b.pass(90 * time.Minute)
		b.want("a week later")
		if !strings.Contains(b.log.String(), "too old") {
			t.Errorf("the log: %s", b.log.String())
		}
		b.say(keySet("b"))
		b.pass(20 * time.Minute)
		b.want("it is back", "/a=b")
	})
}

func TestASourceThatCameBackIsTriedAsOftenAgain(t *testing.T) {
	inBubble(t, Options{}, func(b *bubble) {
		b.follow("/a") // at 0
		b.fail(500)
		b.pass(30 * time.Minute) // fails at 20, 21, 23 and 27
		b.say(keySet("a"))
		b.pass(10 * time.Minute) // succeeds at 35
		b.fail(500)
		b.pass(25 * time.Minute) // fails at 55 and 56
		b.within(6, 55*time.Minute)
		b.within(7, 56*time.Minute)
		if times, _ := b.asked(); times[7]-times[6] > time.Minute {
			t.Errorf("tried again after %v, want a minute", times[7]-times[6])
		}
	})
}

// TestATagDoesNotOutliveItsKeys has a source away for so long that its keys were
// forgotten, and then say that they are the same.
func TestATagDoesNotOutliveItsKeys(t *testing.T) {
	inBubble(t, Options{}, func(b *bubble) {
		tagged := func(w http.ResponseWriter, r *http.Request) {
			if w.Header().Set("ETag", `"1"`); r.Header.Get("If-None-Match") == `"1"` {
				w.WriteHeader(304)
				return
			}
			_, _ = w.Write([]byte(keySet("a")))
		}
		b.do(tagged)
		b.follow("/a")
		b.pass(30 * time.Minute)
		b.want("unchanged", "/a=a")
		b.fail(500)
		b.pass(8 * 24 * time.Hour)
		b.want("forgotten")
		b.do(tagged)
		b.pass(20 * time.Minute)
		b.want("back", "/a=a")
	})
}

func TestASlowSourceIsGivenUp(t *testing.T) {
	inBubble(t, Options{}, func(b *bubble) {
		b.do(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		b.store.Follow(map[jwt.Source]time.Duration{at("/a"): 300 * time.Millisecond, at("/b"): 0})
		b.pass(299 * time.Millisecond)
		if s := b.store.Status(); s[0].Error != "" || b.store.Settled() {
			t.Errorf("too early: %+v", s)
		}
		b.pass(time.Millisecond)
		if s := b.store.Status(); !strings.Contains(s[0].Error, "deadline") || s[1].Error != "" {
			t.Errorf("status: %+v", s)
		}
		b.pass(4699 * time.Millisecond)
		if s := b.store.Status(); s[1].Error != "" {
			t.Errorf("too early: %+v", s)
		}
		b.pass(time.Millisecond)
		if s := b.store.Status(); !strings.Contains(s[1].Error, "deadline") {
			t.Errorf("status: %+v", s)
		}
	})
}

func TestSourcesComeAndGo(t *testing.T) {
	inBubble(t, Options{}, func(b *bubble) {
		if !b.store.Settled() {
			t.Error("nothing is followed, and it is not settled")
		}
		b.follow("/a", "/b")
		b.want("both", "/a=a", "/b=a")
		b.follow("/b", "/c")
		b.want("another", "/b=a", "/c=a")
		_, paths := b.asked()
		if want := []string{"/a", "/b", "/c"}; !slices.Equal(slices.Sorted(slices.Values(paths)), want) {
			t.Errorf("asked for %q, want %q: what is followed already is not fetched anew", paths, want)
		}
		version := b.store.Snapshot().Version
		b.follow()
		b.want("none")
		if got := b.store.Snapshot().Version; got != version+1 {
			t.Errorf("version %d, want %d", got, version+1)
		}
		b.pass(time.Hour)
		if times, _ := b.asked(); len(times) != len(paths) || len(b.store.Status()) != 0 {
			t.Errorf("%d requests, want %d; status %v", len(times), len(paths), b.store.Status())
		}
		b.fail(500)
		b.follow("/d")
		b.follow()
		if got := b.store.Snapshot().Version; got != version+1 {
			t.Errorf("a source without keys came and went: version %d, want %d", got, version+1)
		}
	})
}

// TestWhatIsForgottenIsNotPublished has a source go while it is fetched.
func TestWhatIsForgottenIsNotPublished(t *testing.T) {
	inBubble(t, Options{}, func(b *bubble) {
		for _, failing := range []bool{false, true} {
			b.do(func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(time.Second)
				if failing {
					w.WriteHeader(500)
				}
				_, _ = w.Write([]byte(keySet("a")))
			})
			b.follow("/a")
			b.follow("/b")
			b.pass(2 * time.Second)
			for source := range b.store.Snapshot().Keys {
				if source != at("/b") {
					t.Errorf("failing %t: keys of %v", failing, source)
				}
			}
			b.follow()
		}
	})
}

func TestFetchesAtATimeAreBounded(t *testing.T) {
	inBubble(t, Options{}, func(b *bubble) {
		b.do(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second)
			_, _ = w.Write([]byte(keySet("a")))
		})
		var paths []string
		for i := range 3 * maxFetches {
			paths = append(paths, fmt.Sprintf("/%d", i))
		}
		b.follow(paths...)
		b.pass(2500 * time.Millisecond)
		if b.store.Settled() {
			t.Error("settled before all were tried")
		}
		b.follow(paths[1:]...) // the first ones and those that still wait
		b.pass(time.Second)
		if got := b.most.Load(); got != maxFetches {
			t.Errorf("%d fetches at a time, want %d", got, maxFetches)
		}
		if got := len(b.store.Snapshot().Keys); got != 3*maxFetches-1 || !b.store.Settled() {
			t.Errorf("keys of %d sources, want %d", got, 3*maxFetches-1)
		}
	})
}

func TestSourcesThatWaitForTheirTurnCanBeForgotten(t *testing.T) {
	inBubble(t, Options{}, func(b *bubble) {
		b.do(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		var paths []string
		for i := range 2 * maxFetches {
			paths = append(paths, fmt.Sprintf("/%d", i))
		}
		b.follow(paths...)
		b.follow()
		b.pass(time.Minute)
		if times, _ := b.asked(); len(times) != maxFetches {
			t.Errorf("%d requests, want %d", len(times), maxFetches)
		}
	})
}

func TestRunEndsWhenItIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		s.Follow(maps.Collect(func(yield func(jwt.Source, time.Duration) bool) { yield(jwt.Source{Issuer: "no URL"}, time.Second) }))
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestWhatIsOddIsLogged(t *testing.T) {
	inBubble(t, Options{}, func(b *bubble) {
		b.do(func(w http.ResponseWriter, r *http.Request) {
			text := `{"keys":[{"kty":"X"}]}`
			if r.URL.Path != "/keys" {
				text = `{"issuer":"other","jwks_uri":"http://10.0.0.9/keys"}`
			}
			_, _ = w.Write([]byte(text))
		})
		b.store.Follow(map[jwt.Source]time.Duration{{Issuer: "http://10.0.0.9/"}: time.Second})
		synctest.Wait()
		if _, got := b.asked(); !slices.Equal(got, []string{"/.well-known/openid-configuration", "/keys"}) {
			t.Errorf("asked for %q", got)
		}
		for _, want := range []string{"another name", "issuer=other", "kty", "keys=0"} {
			if log := b.log.String(); !strings.Contains(log, want) {
				t.Errorf("the log has no %q: %s", want, log)
			}
		}
		if s := b.store.Status(); len(s) != 1 || s[0].Source != "issuer http://10.0.0.9/" || !strings.Contains(s[0].Skipped, "kty") {
			t.Errorf("status: %+v", s)
		}
		// A key set without keys is one: whose keys were in it are no longer trusted.
		if keys := b.store.Snapshot().Keys[jwt.Source{Issuer: "http://10.0.0.9/"}]; keys == nil || keys.Len() != 0 {
			t.Errorf("got %v, want no keys", keys)
		}
	})
}

// TestALateAnswerIsNoAnswer settles what arrived when it was no longer wanted.
func TestALateAnswerIsNoAnswer(t *testing.T) {
	keys, err := jwt.ParseKeys([]byte(keySet("a")))
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{})
	f := &follower{store: s, source: at("/a")}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if wait := f.settle(ctx, document{keys: keys}, nil); wait != 0 || f.keys != nil || f.tried {
		t.Errorf("keys: waits %v: %+v", wait, f)
	}
	if wait := f.settle(ctx, document{}, context.Canceled); wait != 0 || f.err != nil || f.tried {
		t.Errorf("an error: waits %v: %+v", wait, f)
	}
	if s.Snapshot().Version != 0 {
		t.Error("something was published")
	}
}
