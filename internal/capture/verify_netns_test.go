//go:build netns && linux

package capture

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestApplyTwiceChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.apply(all)
	first := state(t, w.pod, "-a") // with handles, which a new rule would not share
	w.apply(all)
	sameState(t, "after the second Apply", state(t, w.pod, "-a"), first)
	w.apply(Options{IPv6: true})
	if state(t, w.pod, "-a") == first {
		t.Error("Apply of other options changed nothing")
	}
	w.apply(all)
	sameState(t, "after going back", state(t, w.pod), stripHandles(first))
}

// stripHandles makes what nft -a prints what nft prints.
func stripHandles(s string) string {
	var lines []string
	for _, l := range strings.Split(s, "\n") {
		l, _, _ = strings.Cut(l, " # handle ")
		lines = append(lines, l)
	}
	return strings.Join(lines, "\n")
}

func TestRemoveLeavesNothing(t *testing.T) {
	w := newWorld(t)
	// What others have programmed stays, in a table of a name like ours as well.
	nft(t, w, "pod", "add table inet waystone-ambient-2")
	nft(t, w, "pod", "add table ip waystone-ambient")
	w.must(w.pod.Do(func() error {
		r := netlink.NewRule()
		r.Table, r.Priority, r.Mark = RouteTable, RulePriority+1, 0x222
		return netlink.RuleAdd(r)
	}))
	before := state(t, w.pod)
	if strings.Contains(before, "table inet waystone-ambient {") {
		t.Fatal("there is a table already")
	}
	w.must(Remove(w.pod))
	sameState(t, "after removing nothing", state(t, w.pod), before)
	for _, o := range []Options{all, {}} {
		w.apply(o)
		if state(t, w.pod) == before {
			t.Fatal("Apply changed nothing")
		}
		w.must(Remove(w.pod))
		sameState(t, "after Remove", state(t, w.pod), before)
	}
}

// TestLoopbackMustBeUp: as it is not in what `ip netns add` makes.
func TestLoopbackMustBeUp(t *testing.T) {
	w := newWorld(t)
	set := func(f func(netlink.Link) error) {
		w.must(w.pod.Do(func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			return f(lo)
		}))
	}
	set(netlink.LinkSetDown)
	before := state(t, w.pod)
	if err := Apply(w.pod, all); err == nil || !strings.Contains(err.Error(), "ip link set lo up") {
		t.Errorf("Apply: %v, want advice", err)
	}
	sameState(t, "after Apply was refused", state(t, w.pod), before)
	set(netlink.LinkSetUp)
	w.apply(all)
}

// TestThereIsNoMomentWithoutRules connects while the rules are replaced by
// others, again and again.
func TestThereIsNoMomentWithoutRules(t *testing.T) {
	w := newWorld(t)
	w.app(w.client, "[::]:80")
	w.tunnel()
	w.apply(all)
	stop, done := make(chan struct{}), make(chan error, 1)
	var replaced atomic.Int32
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			o := all
			o.ExcludeOutboundPorts = make([]uint16, replaced.Load()%3)
			for i := range o.ExcludeOutboundPorts {
				o.ExcludeOutboundPorts[i] = uint16(1000 + i)
			}
			if err := Apply(w.pod, o); err != nil {
				done <- err
				return
			}
			replaced.Add(1)
		}
	}()
	for n := 0; n < 300 || replaced.Load() < 20; n++ {
		fam := []string{"IPv4", "IPv6"}[n%2]
		expect(t, fmt.Sprint("connection ", n), w.get(w.pod, clientIP[fam], 80), outbound(clientIP[fam], 80))
	}
	close(stop)
	w.must(<-done)
}

// TestVerifyNamesWhatIsMissing takes away one thing at a time, and puts it back
// with Apply.
func TestVerifyNamesWhatIsMissing(t *testing.T) {
	w := newWorld(t)
	ip := func(args ...string) func() {
		return func() {
			fam := netlink.FAMILY_V4
			if args[0] == "-6" {
				fam = netlink.FAMILY_V6
			}
			w.must(w.pod.Do(func() error {
				h, err := netlink.NewHandle()
				if err != nil {
					return err
				}
				defer h.Close()
				lo, err := h.LinkByName("lo")
				if err != nil {
					return err
				}
				if args[1] == "rule" {
					return h.RuleDel(route{fam}.rule())
				}
				return h.RouteDel(route{fam}.local(lo))
			}))
		}
	}
	cmd := func(c string) func() { return func() { nft(t, w, "pod", c) } }
	for _, r := range []struct {
		what string
		do   func()
		want string
	}{
		{"table", cmd("delete table inet waystone-ambient"), `table inet waystone-ambient: missing`},
		{"all rules", cmd("flush table inet waystone-ambient"), `chain mangle-prerouting: rule 1 ("connections of the tunnel to the pod"): missing`},
		{"a chain", cmd("delete chain inet waystone-ambient raw-output"), `chain raw-output: missing`},
		{"the rules of a chain", cmd("flush chain inet waystone-ambient nat-output"), `chain nat-output: rule 1 ("the tunnel's own"): missing`},
		{"a rule more, first", cmd("insert rule inet waystone-ambient nat-output accept"), `chain nat-output: rule 1 ("the tunnel's own"): another is in its place`},
		{"a rule more, last", cmd("add rule inet waystone-ambient nat-output accept"), `chain nat-output: 1 rules that are not ours`},
		{"a chain more", cmd("add chain inet waystone-ambient mine { type filter hook output priority 0 ; }"), `chain mine: not ours`},
		{"a policy", cmd("add chain inet waystone-ambient raw-output { policy drop ; }"), `chain raw-output: its policy drops`},
		{"IPv4 rule", ip("-4", "rule"), `IPv4: ip rule fwmark 0x111/0xfff lookup 100: missing`},
		{"IPv6 rule", ip("-6", "rule"), `IPv6: ip rule fwmark 0x111/0xfff lookup 100: missing`},
		{"IPv4 route", ip("-4", "route"), `IPv4: route local default dev lo table 100: missing`},
		{"IPv6 route", ip("-6", "route"), `IPv6: route local default dev lo table 100: missing`},
	} {
		w.apply(all)
		w.must(Verify(w.pod, all))
		r.do()
		if err := Verify(w.pod, all); err == nil || !strings.Contains(err.Error(), r.want) {
			t.Errorf("%s: Verify says %v, want %q", r.what, err, r.want)
		}
		w.apply(all)
		w.must(Verify(w.pod, all))
	}
	o := all
	o.ExcludeOutboundCIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	if err := Verify(w.pod, o); err == nil || !strings.Contains(err.Error(), `("excluded range")`) {
		t.Errorf("other options: Verify says %v", err)
	}
}
