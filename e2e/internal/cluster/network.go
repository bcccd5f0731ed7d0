//go:build linux

package cluster

import (
	"context"
	"fmt"
	"strings"
)

// address returns the address of the node with an index.
func address(node int) string { return fmt.Sprintf("10.88.0.%d", 11+node) }

func address6(node int) string { return fmt.Sprintf("fd88::%d", 11+node) }

// podsOf returns the addresses of a node's pods.
func podsOf(node int) string { return fmt.Sprintf("10.244.%d.0/24", 1+node) }

func podsOf6(node int) string { return fmt.Sprintf("fd44:0:0:%d::/64", 1+node) }

// namespace returns the name in /run/netns of a node's network namespace; that of the
// control plane is namespace("cp").
func namespace(node string) string { return prefix + "-" + node }

// network makes the namespaces, a bridge in that of the control plane which all nodes are
// on, static routes to pods, and the veth to this machine.
func (c *Cluster) network(ctx context.Context) error {
	cp := namespace("cp")
	commands := []string{
		"netns add " + cp,
		"-n " + cp + " link set lo up",
		"-n " + cp + " link add br0 type bridge",
		"-n " + cp + " addr add " + control + "/24 dev br0",
		"-n " + cp + " addr add " + control6 + "/64 dev br0 nodad",
		"-n " + cp + " link set br0 up",
	}
	for i, n := range Nodes {
		ns := namespace(n)
		commands = append(commands,
			"netns add "+ns,
			"-n "+ns+" link set lo up",
			"-n "+cp+" link add v-"+n+" type veth peer name eth0 netns "+ns,
			"-n "+cp+" link set v-"+n+" master br0 up",
			"-n "+ns+" addr add "+address(i)+"/24 dev eth0",
			"-n "+ns+" addr add "+address6(i)+"/64 dev eth0 nodad",
			"-n "+ns+" link set eth0 up",
			"-n "+ns+" route add default via "+control,
			"-n "+ns+" route add default via "+control6,
			"-n "+cp+" route add "+podsOf(i)+" via "+address(i),
			"-n "+cp+" route add "+podsOf6(i)+" via "+address6(i),
		)
	}
	for i, n := range Nodes {
		for j := range Nodes {
			if i != j {
				commands = append(commands,
					"-n "+namespace(n)+" route add "+podsOf(j)+" via "+address(j),
					"-n "+namespace(n)+" route add "+podsOf6(j)+" via "+address6(j))
			}
		}
	}
	gateway := strings.TrimSuffix(machine, ".1") + ".2"
	commands = append(commands,
		"link add "+prefix+" type veth peer name machine netns "+cp,
		"addr add "+machine+"/30 dev "+prefix,
		"link set "+prefix+" up",
		"-n "+cp+" addr add "+gateway+"/30 dev machine",
		"-n "+cp+" link set machine up",
		"-n "+cp+" route add "+services+" via "+address(0), // its kube-proxy knows them
	)
	for _, to := range []string{nodes, pods, services} {
		commands = append(commands, "route add "+to+" via "+gateway)
	}
	for _, command := range commands {
		if err := run(ctx, "ip", strings.Fields(command)...); err != nil {
			return err
		}
	}
	for _, n := range append([]string{"cp"}, Nodes...) {
		if err := run(ctx, "nsenter", "--net=/run/netns/"+namespace(n), "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"); err != nil {
			return err
		}
	}
	return nil
}

// unnetwork takes away what network has made, as far as it is there.
func (c *Cluster) unnetwork(ctx context.Context) {
	_ = run(ctx, "ip", "link", "del", prefix) // with it go the routes
	for _, n := range append([]string{"cp"}, Nodes...) {
		_ = run(ctx, "ip", "netns", "del", namespace(n))
	}
}
