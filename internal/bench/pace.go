package bench

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// A pacer posts the arrivals of an open loop to the engines in turn, each when
// it is due. It has a thread of its own; see [sleepUntil].
type pacer struct {
	epoch   time.Time     // what arrivals are counted from
	begin   time.Duration // when the schedule begins
	arrive  *schedule
	inboxes []*inbox
	stopped atomic.Bool
	done    sync.WaitGroup
}

// longestSleep bounds how long a pacer that is stopped goes on sleeping.
const longestSleep = 50 * time.Millisecond

// start begins the schedule, so long after epoch.
func (p *pacer) start(epoch time.Time, begin time.Duration) {
	p.epoch, p.begin = epoch, begin
	p.done.Add(1)
	go p.run()
}

func (p *pacer) stop() {
	p.stopped.Store(true)
	p.done.Wait()
}

func (p *pacer) run() {
	defer p.done.Done()
	runtime.LockOSThread() // and never unlocked: the thread ends with us
	clock := newAlarm(p.epoch)
	due, to := p.begin+p.arrive.next(), 0
	for !p.stopped.Load() {
		now := time.Since(p.epoch)
		if due > now {
			clock.sleepUntil(min(due, now+longestSleep))
			continue
		}
		for due <= now {
			p.inboxes[to].add(due)
			if to++; to == len(p.inboxes) {
				to = 0
			}
			due = p.begin + p.arrive.next()
		}
		for _, in := range p.inboxes {
			in.post()
		}
	}
}

// An inbox carries arrivals to the loop of an engine, which is woken once for
// as many as have come.
type inbox struct {
	do    func(func())        // loop.Loop.Do
	offer func(time.Duration) // called there
	take  func()              // deliver, made once so that posting allocates nothing

	mu     sync.Mutex
	due    []time.Duration
	spare  []time.Duration // the other half of due
	posted bool
}

func newInbox(do func(func()), offer func(time.Duration)) *inbox {
	in := &inbox{do: do, offer: offer}
	in.take = in.deliver
	return in
}

func (in *inbox) add(due time.Duration) {
	in.mu.Lock()
	in.due = append(in.due, due)
	in.mu.Unlock()
}

// post has the loop take what was added.
func (in *inbox) post() {
	in.mu.Lock()
	post := len(in.due) > 0 && !in.posted
	in.posted = in.posted || post
	in.mu.Unlock()
	if post {
		in.do(in.take)
	}
}

func (in *inbox) deliver() {
	in.mu.Lock()
	due := in.due
	in.due, in.spare = in.spare[:0], due
	in.posted = false
	in.mu.Unlock()
	for _, at := range due {
		in.offer(at)
	}
}
