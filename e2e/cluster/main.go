//go:build linux

// Command cluster runs a Kubernetes cluster of two nodes on this machine, with istiod and
// the mesh in it if asked. As root:
//
//	go run ./cluster build      build what it needs, half an hour of CPU the first time
//	go run ./cluster up         Kubernetes
//	go run ./cluster up mesh    and istiod, istio-cni and our node tunnel
//	go run ./cluster load       our programs once more, as they are now, and the node tunnels anew
//	go run ./cluster env        what to eval in a shell for kubectl and istioctl
//	go run ./cluster down       and nothing is left
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/waystone-mesh/waystone/e2e/internal/build"
	"github.com/waystone-mesh/waystone/e2e/internal/cluster"
	"github.com/waystone-mesh/waystone/e2e/internal/mesh"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := do(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func do(ctx context.Context, args []string) error {
	if len(args) == 0 {
		args = []string{""}
	}
	switch args[0] { // these run in a node, where nothing is built
	case "enter":
		return cluster.Enter(args[1])
	case "init":
		return cluster.New(nil, os.Stderr).Init(args[1])
	case "env":
		c := cluster.New(nil, os.Stderr)
		fmt.Printf("export KUBECONFIG=%s\nexport PATH=%s/bin:$PATH\n", c.Kubeconfig(), c.Dir)
		return nil
	case "down":
		return cluster.New(nil, os.Stderr).Down(ctx)
	}
	tools, err := build.New(".", os.Stdout)
	if err != nil {
		return err
	}
	if err := tools.All(ctx); err != nil {
		return err
	}
	c := cluster.New(tools, os.Stdout)
	switch {
	case args[0] == "build":
		return nil
	case args[0] == "load":
		return mesh.Load(ctx, c)
	case args[0] == "up":
		images, err := mesh.Built(ctx, tools)
		if err != nil {
			return err
		}
		if len(args) < 2 || args[1] != "mesh" {
			return c.Up(ctx, images.Cluster...)
		}
		return mesh.Up(ctx, c, images)
	}
	return fmt.Errorf("build, up, up mesh, load, env or down, and not %q", args)
}
