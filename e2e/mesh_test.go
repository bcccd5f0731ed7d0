//go:build linux

// Package e2e tests the node tunnel and the waypoint in a Kubernetes cluster that runs on
// this machine, with the real istiod and istio-cni: `make e2e`, as root.
package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/e2e/internal/build"
	"github.com/waystone-mesh/waystone/e2e/internal/cluster"
	"github.com/waystone-mesh/waystone/e2e/internal/mesh"
)

// variable is what has the tests run: 1, or keep to leave the cluster up, and to use one
// that is.
const variable = "WAYSTONE_E2E"

// running is the cluster of all tests.
var running *cluster.Cluster

func TestMain(m *testing.M) {
	how := os.Getenv(variable)
	if how == "" {
		os.Exit(m.Run()) // every test that needs the cluster says so, and skips
	}
	ctx := context.Background()
	c, err := begin(ctx, how == "keep")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		if c != nil {
			fmt.Fprintln(os.Stderr, "the cluster is left as it is; logs are in", c.Dir+"/log")
		}
		os.Exit(1)
	}
	running = c
	status := m.Run()
	if how != "keep" {
		if err := c.Down(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			status = 1
		}
	}
	os.Exit(status)
}

func begin(ctx context.Context, keep bool) (*cluster.Cluster, error) {
	apps, err := os.ReadFile("testdata/apps.yaml")
	if err != nil {
		return nil, err
	}
	if c := cluster.New(nil, os.Stdout); keep && c.Runs() {
		return c, c.Apply(ctx, string(apps))
	}
	tools, err := build.New(".", os.Stdout)
	if err != nil {
		return nil, err
	}
	if err := tools.All(ctx); err != nil {
		return nil, err
	}
	c := cluster.New(tools, os.Stdout)
	images, err := mesh.Built(ctx, tools)
	if err != nil {
		return nil, err
	}
	if err := mesh.Up(ctx, c, images); err != nil {
		return c, err
	}
	return c, c.Apply(ctx, string(apps))
}

// A rig is the cluster and its pods, for one test.
type rig struct {
	*cluster.Cluster
	t   *testing.T
	ctx context.Context

	client, other, v1, v2 cluster.Pod // in namespace shop
	plain, plainEcho      cluster.Pod // in namespace plain
}

// start returns the rig of a test, which is skipped if there is no cluster.
func start(t *testing.T) *rig {
	t.Helper()
	if running == nil {
		t.Skip("needs root and a Kubernetes cluster, which make e2e starts")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	r := &rig{Cluster: running, t: t, ctx: ctx}
	r.client = r.pod("shop", "app=client")
	r.other = r.pod("shop", "app=other")
	r.v1 = r.pod("shop", "app=echo,version=v1")
	r.v2 = r.pod("shop", "app=echo,version=v2")
	r.plain = r.pod("plain", "app=client")
	r.plainEcho = r.pod("plain", "app=echo")
	return r
}

// pod waits for the one pod with labels to be ready.
func (r *rig) pod(namespace, labels string) (p cluster.Pod) {
	r.t.Helper()
	r.eventually("pod "+namespace+" "+labels, time.Minute, func() error {
		pods, err := r.Pods(r.ctx, namespace, labels)
		switch {
		case err != nil:
			return err
		case len(pods) != 1:
			return fmt.Errorf("%d pods are ready", len(pods))
		}
		p = pods[0]
		return nil
	})
	return p
}

// eventually tries f until it has no error, for a time.
func (r *rig) eventually(what string, limit time.Duration, f func() error) {
	r.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) || r.ctx.Err() != nil {
			r.t.Fatalf("%s: not within %s: %v", what, limit, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// apply applies manifests, and takes them away at the test's end.
func (r *rig) apply(manifests string) {
	r.t.Helper()
	if err := r.Apply(r.ctx, manifests); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := r.Kubectl(ctx, manifests, "delete", "--ignore-not-found", "-f", "-"); err != nil {
			r.t.Error(err)
		}
	})
}

// kubectl runs kubectl, which has to succeed.
func (r *rig) kubectl(args ...string) string {
	r.t.Helper()
	out, err := r.Kubectl(r.ctx, "", args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// finally runs kubectl at the test's end, however it ends.
func (r *rig) finally(args ...string) {
	t := r.t
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := r.Kubectl(ctx, "", args...); err != nil {
			t.Error(err)
		}
	})
}
