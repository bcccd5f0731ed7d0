//go:build linux

package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/waystone-mesh/waystone/examples/bookinfo"
)

// title is what the page of productpage has.
const title = "<title>Simple Bookstore App</title>"

// viewer is the file of the policy that is written, replaced and edited.
const viewer = "productpage-viewer.yaml"

var (
	allowed = expectation{status: 200, text: title}
	denied  = expectation{status: 403, text: "RBAC: access denied"}
	refused = expectation{text: "not allowed"} // and not a connection that was open and is cut
)

// productpage is the service's VIP and its pod.
const (
	vip = "127.96.0.10:9080"
	pod = "127.244.1.24:9080"
)

// walk goes through the steps. Its error is of what keeps it from going on; what
// is not as expected is counted.
func (d *demo) walk(ctx context.Context) error {
	steps := []struct {
		title string
		do    func(context.Context) error
	}{
		{"Plaintext: the namespace is not in the mesh", d.plaintext},
		{"The namespace is labelled: mTLS between all pods", d.ambient},
		{"A policy for connections (L4), which the node tunnel enforces", d.l4},
		{"A Gateway: productpage gets a waypoint", d.gateway},
		{"A policy for requests (L7), which the waypoint enforces", d.l7},
		{"The API is for those who have a token", d.token},
		{"And for whom a policy in Rego lets in, which the waypoint evaluates itself", d.opa},
		{"Reviews: nine requests of ten to v1, one to v2", d.split},
		{"The policy is edited while requests come", d.edit},
		{"And out again: policy, waypoints and label are removed", d.out},
	}
	if d.options.Keep {
		steps = steps[:len(steps)-1]
	}
	for i, s := range steps {
		d.step(i+1, s.title)
		lasts := time.After(stepLasts)
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
		select {
		case <-lasts:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// stepLasts is the least that a step takes: 1 s, in which the background load
// sends a hundred requests or more.
const stepLasts = time.Second

// check has somebody make a request, until the answer is as expected or that
// takes too long, and prints both.
func (d *demo) check(ctx context.Context, a asker, r request, want expectation) {
	d.command(a.command(r))
	var got bookinfo.Answer
	err := eventually(ctx, settling, func() bool {
		got = a.ask(ctx, r)
		return want.met(got)
	})
	d.judge(err == nil, want.String(), want.describe(got))
}

func (d *demo) judge(ok bool, expected, seen string) {
	if !ok {
		d.differs++
	}
	d.verdict(ok, expected, seen)
}

// told waits for a line of a log, and prints it. Without it, the step differs.
func (d *demo) told(ctx context.Context, l logFile, after int64, p pattern) string {
	line, err := l.await(ctx, after, p)
	if err != nil {
		d.differs++
		d.line("     %s  [%s]", err, d.paint(red, "DIFFERS"))
		return ""
	}
	d.log(l.name, line)
	return line
}

// written is how long a line may be on its way to a log, and some: 150 ms.
const written = 150 * time.Millisecond

// goes has sleep ask for the page until the node tunnel's log says that the
// connection went as it should, and prints the lines about it.
func (d *demo) goes(ctx context.Context, how pattern) {
	node := d.nodes["node-2"]
	var after int64
	_ = eventually(ctx, settling, func() bool {
		select {
		case <-time.After(written): // or the first line might be about a connection of the load's
		case <-ctx.Done():
			return false
		}
		after = node.end()
		d.sleep.ask(ctx, getPage)
		_, err := node.await(ctx, after, pattern{"proxy to"})
		for _, line := range node.lines(after) {
			if err == nil && how.matches(line) {
				return true
			}
		}
		return false
	})
	if line := d.told(ctx, node, after, how); line != "" {
		d.told(ctx, node, after, pattern{"outbound{id=" + connectionID(line), "complete dur="})
	}
}

func (d *demo) plaintext(ctx context.Context) error {
	d.check(ctx, d.sleep, getPage, allowed)
	d.check(ctx, d.notsleep, getPage, allowed)
	d.check(ctx, d.ingress, getPage, allowed)
	d.goes(ctx, pattern{"proxy to " + vip, "using TCP via " + pod, "type Direct"})
	return nil
}

func (d *demo) ambient(ctx context.Context) error {
	if err := d.apply("ambient-namespace.yaml", "ambient-namespace.yaml"); err != nil {
		return err
	}
	to := d.nodes["node-1"]
	after := to.end()
	d.check(ctx, d.sleep, getPage, allowed)
	d.goes(ctx, pattern{"proxy to " + pod, "using HBONE via 127.244.1.24:15008", "type Direct"})
	d.told(ctx, to, after, pattern{"inbound{id=", "peer_ip=127.244.2.9 peer_id=spiffe://cluster.local/ns/default/sa/sleep", "got CONNECT request to " + pod})
	d.check(ctx, d.notsleep, getPage, allowed)
	d.check(ctx, d.ingress, getPage, allowed)
	return nil
}

// apply copies a manifest, as kubectl would apply it.
func (d *demo) apply(from, to string) error {
	d.command("cp examples/bookinfo/" + from + " $DEMO/config/" + to)
	return d.copy(from, to)
}

func (d *demo) l4(ctx context.Context) error {
	if err := d.apply("l4-policy.yaml", viewer); err != nil {
		return err
	}
	to := d.nodes["node-1"]
	after := to.end()
	d.check(ctx, d.notsleep, getPage, refused)
	d.told(ctx, to, after, pattern{"connection complete", "sa/notsleep", `direction="inbound"`, "policy rejection"})
	d.check(ctx, d.sleep, getPage, allowed)
	d.check(ctx, d.ingress, getPage, allowed)
	return nil
}

func (d *demo) gateway(ctx context.Context) (err error) {
	if d.waypoint, err = d.startWaypoint(ctx, "bookinfo-productpage"); err != nil {
		return err
	}
	if err := d.apply("waypoint.yaml", "waypoint.yaml"); err != nil {
		return err
	}
	log := d.waypoint.log
	d.goes(ctx, pattern{"proxy to " + vip, "using HBONE via 127.244.1.50:15008", "type ToServerWaypoint"})
	after := log.end()
	d.check(ctx, d.sleep, getPage, allowed)
	d.told(ctx, log, after, pattern{`"response_code":200`, `"path":"/productpage"`, "127.244.2.9:"})
	d.check(ctx, d.ingress, getPage, allowed)
	d.note("To productpage's node it is the waypoint that connects: nobody is told apart by L4 any more.")
	d.check(ctx, d.notsleep, getPage, allowed)
	return nil
}

func (d *demo) l7(ctx context.Context) error {
	if err := d.apply("l7-policy.yaml", viewer); err != nil {
		return err
	}
	log := d.waypoint.log
	d.check(ctx, d.sleep, getPage, allowed)
	after := log.end()
	d.check(ctx, d.sleep, deletePage, denied)
	d.told(ctx, log, after, pattern{`"method":"DELETE"`, `"response_code":403`, "rbac_access_denied_matched_policy[none]"})
	d.why(ctx, "operation.methods wanted GET, saw DELETE")
	after = log.end()
	d.check(ctx, d.notsleep, getPage, denied)
	d.told(ctx, log, after, pattern{`"method":"GET"`, `"response_code":403`, "127.244.1.12:"})
	d.why(ctx, "saw cluster.local/ns/default/sa/notsleep")
	d.check(ctx, d.ingress, getPage, allowed)
	return nil
}

// The split, and how much of it may be otherwise.
const (
	splitRequests = 2000
	splitWeight   = 90.0 // percent to v1
	splitPoints   = 5.0
)

func (d *demo) split(ctx context.Context) (err error) {
	if d.reviews, err = d.startWaypoint(ctx, "bookinfo-reviews"); err != nil {
		return err
	}
	for _, name := range []string{"reviews-waypoint.yaml", "reviews-split.yaml"} {
		if err := d.apply(name, name); err != nil {
			return err
		}
	}
	if err := d.routed(ctx, "default.reviews.0"); err != nil {
		d.judge(false, "the waypoint serves the route", err.Error())
		return nil
	}
	d.command(fmt.Sprintf("for i in $(seq %d); do %s; done", splitRequests, d.sleep.command(getReviews)))
	begun := time.Now()
	count, failed := d.tally(ctx, bookinfo.IPs["sleep"], reviewsURL)
	share := 100 * float64(count["reviews-v1"]) / splitRequests
	ok := failed == 0 && math.Abs(share-splitWeight) <= splitPoints && count["reviews-v1"]+count["reviews-v2"] == splitRequests
	d.judge(ok, fmt.Sprintf("%.0f%% v1 and %.0f%% v2, each within %.0f points", splitWeight, 100-splitWeight, splitPoints),
		fmt.Sprintf("%.1f%% v1 (%d), %.1f%% v2 (%d), %d lost, in %s", share, count["reviews-v1"],
			100*float64(count["reviews-v2"])/splitRequests, count["reviews-v2"], failed, rounded(time.Since(begun))))
	return nil
}

// reviewsURL is what the split is about.
const reviewsURL = "http://reviews:9080/reviews/0"

var getReviews = request{method: http.MethodGet, url: reviewsURL}

// routed waits until the waypoint of reviews takes requests by a route.
func (d *demo) routed(ctx context.Context, route string) error {
	log := d.reviews.log
	return eventually(ctx, settling, func() bool {
		after := log.end()
		d.sleep.ask(ctx, getReviews)
		line, err := log.await(ctx, after, pattern{"127.244.2.9:", `"response_code":200`})
		return err == nil && routeName(line) == route
	})
}

// tally sends the requests of the split over a few connections, and counts which
// version answered.
func (d *demo) tally(ctx context.Context, ip, url string) (count map[string]int, failed int) {
	const connections = 10
	var mu sync.Mutex
	var all sync.WaitGroup
	count = map[string]int{}
	for range connections {
		all.Go(func() {
			t := bookinfo.Transport(ip)
			defer t.CloseIdleConnections()
			for range splitRequests / connections {
				pod := version(bookinfo.AskOver(ctx, t, http.MethodGet, url))
				mu.Lock()
				if pod == "" {
					failed++
				} else {
					count[pod]++
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return count, failed
}

// version returns the pod that gave reviews, or "" if there are none.
func version(a bookinfo.Answer) string {
	var r bookinfo.Reviews
	if a.Err != nil || a.Status != http.StatusOK || json.Unmarshal(a.Body, &r) != nil {
		return ""
	}
	return r.Podname
}

// enforced is how long an edit may take from the file's writing to its first
// effect on a request.
const enforced = 100 * time.Millisecond

func (d *demo) edit(ctx context.Context) error {
	text, err := bookinfo.Manifests.ReadFile("l7-policy.yaml")
	if err != nil {
		return err
	}
	const sa = "cluster.local/ns/default/sa/"
	edited := bytes.Replace(text, []byte("- "+sa+"sleep"), []byte("- "+sa+"sleep\n        - "+sa+"notsleep"), 1)
	t := bookinfo.Transport(bookinfo.IPs["notsleep"])
	defer t.CloseIdleConnections()
	for _, e := range []struct {
		how  string
		text []byte
		want expectation
	}{
		{"adds notsleep", edited, allowed},
		{"removes notsleep", text, denied},
	} {
		d.command("sed -i '…' $DEMO/config/" + viewer + "   # " + e.how)
		written := time.Now() // or rather, about to be
		if err := d.write(viewer, e.text); err != nil {
			return err
		}
		var took time.Duration
		var got bookinfo.Answer
		for took < settling && ctx.Err() == nil {
			got = bookinfo.AskOver(ctx, t, http.MethodGet, page)
			took = time.Since(written)
			if e.want.met(got) {
				break
			}
		}
		d.judge(e.want.met(got) && took <= enforced, fmt.Sprintf("notsleep gets %v within %v of the file's write", e.want, enforced),
			fmt.Sprintf("%s after %.0f ms", e.want.describe(got), float64(took.Microseconds())/1000))
		if e.want == denied {
			d.why(ctx, "saw "+sa+"notsleep")
		}
	}
	return nil
}

func (d *demo) out(ctx context.Context) error {
	for _, name := range []string{opaPolicy, jwtPolicy, viewer} {
		if err := d.rm(name); err != nil {
			return err
		}
	}
	d.check(ctx, d.sleep, deletePage, allowed)
	d.check(ctx, d.notsleep, getPage, allowed)
	if err := d.rm("reviews-split.yaml"); err != nil {
		return err
	}
	// The route's backends are gone with it. A waypoint that hears of this and of
	// its own end at once would serve latecomers by the route, to nobody.
	if err := d.routed(ctx, "default"); err != nil {
		d.judge(false, "the waypoint serves no route", err.Error())
	}
	for _, name := range []string{"reviews-waypoint.yaml", "waypoint.yaml"} {
		if err := d.rm(name); err != nil {
			return err
		}
	}
	d.goes(ctx, pattern{"proxy to " + pod, "using HBONE via 127.244.1.24:15008", "type Direct"})
	for _, c := range []*child{d.waypoint, d.reviews} {
		begun := time.Now()
		d.command(fmt.Sprintf("kill -TERM %d   # %s", c.cmd.Process.Pid, c.name))
		err := d.family.end(c)
		seen := "it ends in order, in " + rounded(time.Since(begun))
		if err != nil {
			seen = err.Error()
		}
		d.judge(err == nil, "what is in flight is finished, exit 0", seen)
	}
	d.waypoint, d.reviews = nil, nil
	if err := d.rm("ambient-namespace.yaml"); err != nil {
		return err
	}
	d.goes(ctx, pattern{"proxy to " + vip, "using TCP via " + pod, "type Direct"})
	d.check(ctx, d.sleep, getPage, allowed)
	return nil
}

func (d *demo) rm(name string) error {
	d.command("rm $DEMO/config/" + name)
	return d.remove(name)
}

// finishLoad ends the background load and prints its totals.
func (d *demo) finishLoad() {
	kinds, lost := d.load.finish()
	d.line("\n%s", d.paint(bold, "In the background, through all of this"))
	for _, k := range kinds {
		d.judge(k.lost == 0 && k.sent > 0, fmt.Sprintf("GET /productpage, %s: none lost", k.name),
			fmt.Sprintf("%d sent, %d lost, the slowest in %s", k.sent, k.lost, rounded(k.worst)))
	}
	for _, l := range lost {
		d.note(l)
	}
}
