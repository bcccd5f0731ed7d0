package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/script"
)

// service reads "namespace/name" and words: host=, vip= (an address, a block or
// network/address), port=name:service:target, family=4|6, private, entry.
func service(tb testing.TB, words []string) *mesh.Service {
	tb.Helper()
	ns, name, _ := strings.Cut(words[0], "/")
	s := &mesh.Service{Name: name, Namespace: ns, Hostname: name + "." + ns + ".svc.cluster.local", Canonical: true}
	for _, word := range words[1:] {
		k, v, _ := strings.Cut(word, "=")
		switch k {
		case "host":
			s.Hostname, s.Canonical = v, false
		case "vip":
			s.Addresses = append(s.Addresses, prefix(tb, v))
		case "port":
			p := strings.Split(v, ":")
			s.Ports = append(s.Ports, mesh.Port{Name: p[0], Service: number(tb, p[1]), Target: number(tb, p[2])})
		case "family":
			s.Families = map[string]mesh.IPFamilies{"4": mesh.IPv4Only, "6": mesh.IPv6Only}[v]
		case "private":
			s.Private = true
		default:
			tb.Fatalf("service: %q", word)
		}
	}
	return s
}

func prefix(tb testing.TB, text string) mesh.Prefix {
	tb.Helper()
	network, rest, ok := strings.Cut(text, "@")
	if !ok {
		network, rest = "", text
	}
	if p, err := netip.ParsePrefix(rest); err == nil {
		return mesh.Prefix{Network: network, Prefix: p}
	}
	ip := netip.MustParseAddr(rest)
	return mesh.Prefix{Network: network, Prefix: netip.PrefixFrom(ip, ip.BitLen())}
}

func number(tb testing.TB, s string) uint16 {
	tb.Helper()
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		tb.Fatal(err)
	}
	return uint16(n)
}

// pod reads "namespace/name", addresses with commas, and words: of=host of a
// service of its namespace, owner=, network=, node=, search=, ndots=, plain,
// unready.
func pod(tb testing.TB, words []string) *mesh.Workload {
	tb.Helper()
	ns, name, _ := strings.Cut(words[0], "/")
	w := &mesh.Workload{UID: "Kubernetes//Pod/" + words[0], Name: name, Namespace: ns, TrustDomain: "cluster.local",
		Node: "node-1", Tunnel: mesh.HBONE, Services: map[mesh.Hostname]mesh.Membership{}}
	for ip := range strings.SplitSeq(words[1], ",") {
		w.Addresses = append(w.Addresses, netip.MustParseAddr(ip))
	}
	resolv := &mesh.Resolv{}
	for _, word := range words[2:] {
		k, v, _ := strings.Cut(word, "=")
		switch k {
		case "of":
			w.Services[mesh.Hostname{Namespace: ns, Host: v}] = mesh.Membership{}
		case "owner":
			w.OwnerName = v
		case "network":
			w.Network = v
			w.Gateway = &mesh.GatewayAddress{Address: mesh.Address{IP: netip.MustParseAddr("192.0.2.1")}}
		case "node":
			w.Node = v
		case "search":
			resolv.Search = strings.Split(v, ",")
			w.Resolv = resolv
		case "ndots":
			resolv.Ndots = int(number(tb, v))
			w.Resolv = resolv
		case "plain":
			w.Tunnel = mesh.Plain
		case "unready":
			w.Unhealthy = true
		default:
			tb.Fatalf("pod: %q", word)
		}
	}
	return w
}

// world makes a mesh of lines.
func world(tb testing.TB, lines []string) *config.Snapshot {
	tb.Helper()
	var updates []config.Update
	for _, line := range lines {
		kind, rest, _ := strings.Cut(line, " ")
		words := strings.Fields(rest)
		switch kind {
		case "service":
			updates = append(updates, config.Update{Value: service(tb, words)})
		case "pod":
			updates = append(updates, config.Update{Value: pod(tb, words)})
		default:
			tb.Fatalf("line %q", line)
		}
	}
	store := config.NewStore(config.Options{})
	if err := store.Apply(updates); err != nil {
		tb.Fatal(err)
	}
	return store.Snapshot()
}

// resolver is one whose answers have an order.
func resolver(o ResolverOptions) *Resolver {
	r := NewResolver(o)
	r.shuffle = func(int, func(i, j int)) {}
	return r
}

// TestScripts asks what testdata says: "ask [as=namespace/pod] [prefer=namespace]
// [ipv4] TYPE NAME".
func TestScripts(t *testing.T) {
	script.Run(t, "testdata/*.txt", func(t *testing.T) func(*script.Block) string {
		var snap *config.Snapshot
		return func(b *script.Block) string {
			switch b.Command {
			case "mesh":
				snap = world(t, b.Lines())
				return ""
			case "ask":
				return ask(b, snap)
			}
			b.Fatalf("no such command")
			return ""
		}
	})
}

func ask(b *script.Block, snap *config.Snapshot) string {
	var o ResolverOptions
	as, args := "shop/client", b.Args
	for len(args) > 2 {
		switch k, v, _ := strings.Cut(args[0], "="); k {
		case "as":
			as = v
		case "prefer":
			o.Prefer = v
		case "ipv4":
			o.NoIPv6 = true
		default:
			b.Fatalf("%q", args[0])
		}
		args = args[1:]
	}
	d := snap.Destination("Kubernetes//Pod/" + as)
	if d == nil {
		b.Fatalf("there is no pod %s", as)
	}
	qtype, ok := dns.StringToType[args[0]]
	if !ok {
		b.Fatalf("type %q", args[0])
	}
	a, ok := resolver(o).Answer(snap, d.Workload, dns.Question{Name: args[1], Qtype: qtype, Qclass: dns.ClassINET})
	if !ok {
		return "forwarded\n"
	}
	if len(a.Records) == 0 {
		return "no records\n"
	}
	return list("", a.Records) + list("also ", a.Extra)
}

func list(before string, records []dns.RR) string {
	var lines []string
	for _, rr := range records {
		lines = append(lines, fmt.Sprintf("%s%s\n", before, strings.ReplaceAll(rr.String(), "\t", " ")))
	}
	slices.SortStableFunc(lines, func(a, b string) int {
		// What endpoints there are has no order; a CNAME comes before what it leads to.
		if c := strings.Contains(b, " CNAME "); c || strings.Contains(a, " CNAME ") {
			return map[bool]int{true: 1, false: -1}[c]
		}
		return strings.Compare(a, b)
	})
	return strings.Join(lines, "")
}
