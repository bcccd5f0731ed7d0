package capture

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A route is what delivers ConnMark locally, in one family:
//
//	ip rule add fwmark 0x111/0xfff pref 32764 lookup 100
//	ip route add local default dev lo table 100
type route struct{ family int }

func (r route) String() string {
	if r.family == unix.AF_INET6 {
		return "IPv6"
	}
	return "IPv4"
}

func (r route) rule() *netlink.Rule {
	mask := uint32(MarkMask)
	n := netlink.NewRule()
	n.Family, n.Table, n.Priority, n.Mark, n.Mask = r.family, RouteTable, RulePriority, ConnMark, &mask
	return n
}

func (r route) local(lo netlink.Link) *netlink.Route {
	every := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	if r.family == unix.AF_INET6 {
		every = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: every, Table: RouteTable, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST}
}

// has reports whether the rule and the route are there.
func (r route) has(h *netlink.Handle, lo netlink.Link) (rule, local bool, err error) {
	rules, err := h.RuleList(r.family)
	if err != nil {
		return false, false, fmt.Errorf("%v: listing ip rules: %w", r, err)
	}
	for _, n := range rules {
		rule = rule || n.Table == RouteTable && n.Priority == RulePriority && n.Mark == ConnMark && n.Mask != nil && *n.Mask == MarkMask
	}
	routes, err := h.RouteListFiltered(r.family, &netlink.Route{Table: RouteTable}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return false, false, fmt.Errorf("%v: listing routes of table %d: %w", r, RouteTable, err)
	}
	for _, n := range routes {
		whole := n.Dst == nil
		if !whole {
			ones, _ := n.Dst.Mask.Size()
			whole = ones == 0
		}
		local = local || whole && n.Type == unix.RTN_LOCAL && n.LinkIndex == lo.Attrs().Index
	}
	return rule, local, nil
}

func (r route) apply(h *netlink.Handle, lo netlink.Link) error {
	rule, local, err := r.has(h, lo)
	if err != nil {
		return err
	}
	if !local {
		if err := h.RouteAdd(r.local(lo)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("%v: adding route local default dev lo table %d: %w", r, RouteTable, err)
		}
	}
	if !rule {
		if err := h.RuleAdd(r.rule()); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("%v: adding ip rule fwmark %#x/%#x lookup %d: %w", r, ConnMark, MarkMask, RouteTable, err)
		}
	}
	return nil
}

func (r route) verify(h *netlink.Handle, lo netlink.Link) error {
	rule, local, err := r.has(h, lo)
	switch {
	case err != nil:
		return err
	case !rule:
		return fmt.Errorf("%v: ip rule fwmark %#x/%#x lookup %d: missing", r, ConnMark, MarkMask, RouteTable)
	case !local:
		return fmt.Errorf("%v: route local default dev lo table %d: missing", r, RouteTable)
	}
	return nil
}

func (r route) remove(h *netlink.Handle, lo netlink.Link) error {
	rule, local, err := r.has(h, lo)
	if err != nil {
		return err
	}
	var errs []error
	if rule {
		errs = append(errs, h.RuleDel(r.rule()))
	}
	if local {
		errs = append(errs, h.RouteDel(r.local(lo)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%v: removing ip rule and route of table %d: %w", r, RouteTable, err)
	}
	if rule, local, err = r.has(h, lo); err != nil || rule || local {
		return errors.Join(err, fmt.Errorf("%v: ip rule or route of table %d still there after their removal", r, RouteTable))
	}
	return nil
}

// routes are those of the namespace. IPv6 may be off in the kernel, or on lo,
// and then there is nothing of it to route.
func routes(ipv6 bool) []route {
	rs := []route{{unix.AF_INET}}
	if !ipv6 {
		return rs
	}
	if b, err := os.ReadFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6"); err == nil && strings.TrimSpace(string(b)) == "0" {
		rs = append(rs, route{unix.AF_INET6})
	}
	return rs
}
