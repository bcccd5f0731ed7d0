package ztunnelcmd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/capture"
	"github.com/waystone-mesh/waystone/internal/enroll"
	"github.com/waystone-mesh/waystone/internal/flags"
	"github.com/waystone-mesh/waystone/internal/kube"
	"github.com/waystone-mesh/waystone/internal/netns"
	"github.com/waystone-mesh/waystone/internal/program"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// A from says who tells which pods to capture, and where their network
// namespaces are.
type from struct {
	kubernetes bool // else it is the configuration
	dir        string
}

// enrollOptions are the flags of a node tunnel that captures pods by itself.
type enrollOptions struct {
	from from // no dir: it does not
	proc string
}

const enrollUsage = `"kubernetes": those of this node that the labels istio.io/dataplane-mode choose. "netns:DIR": those of --config, whose network namespaces have a file in DIR. "kubernetes:DIR" is where container runtimes keep them, without it /run/netns`

func (o *enrollOptions) define(set *pflag.FlagSet) {
	flags.Define(set, &o.from, "enroll", "FROM", "", parseFrom, "capture pods ourselves, without istio-cni. "+enrollUsage)
	o.defineProc(set)
}

func (o *enrollOptions) defineProc(set *pflag.FlagSet) {
	flags.Define(set, &o.proc, "node-proc", "DIR", "/proc", flags.Text, "where the node's /proc is, by which --enroll kubernetes finds the node's own network namespace, and pods whose network namespace has no file")
}

func parseFrom(s string) (from, error) {
	word, dir, named := strings.Cut(s, ":")
	switch {
	case named && !filepath.IsAbs(dir):
		return from{}, errors.New("has no directory after the colon, such as /run/netns")
	case word == "kubernetes" && !named:
		return from{true, "/run/netns"}, nil
	case word == "kubernetes":
		return from{true, dir}, nil
	case word == "netns" && named:
		return from{false, dir}, nil
	}
	return from{}, errors.New("is neither kubernetes nor netns:DIR")
}

func (o *enrollOptions) on() bool { return o.from.dir != "" }

// finder looks at processes only where pods are Kubernetes'.
func (o *enrollOptions) finder() enroll.Finder {
	f := enroll.Finder{Dir: o.from.dir}
	if o.from.kubernetes {
		f.Proc = o.proc
	}
	return f
}

// host opens the node's network namespace.
func (o *enrollOptions) host() (*netns.Netns, error) {
	ns, err := netns.Open(filepath.Join(o.proc, "1", "ns", "net"))
	if err != nil {
		return nil, fmt.Errorf("the node's network namespace: is it the node's /proc (--node-proc), and is CAP_SYS_PTRACE there? %w", err)
	}
	return ns, nil
}

// client returns one of the API server of the cluster that we are in.
func (o *enrollOptions) client(p *program.Process) (*kube.Client, error) {
	k, err := kube.InCluster()
	if err != nil {
		return nil, err
	}
	if p != nil {
		k.Log = p.Log.Scope("kube")
	}
	return kube.New(k)
}

// enrolled has z serve the pods that we capture, until the program ends. They
// stay captured: see unenrollCommand.
func (o *options) enrolled(p *program.Process, z *ztunnel.Ztunnel) error {
	f := o.enroll.finder()
	about := enroll.Options{
		Handler: z, Find: f.Find, All: f.All, Log: p.Log.Scope("enroll"),
		Capture: capture.Options{DNS: o.dns.inPods(o), IPv6: o.dns.ipv6},
	}
	if !o.enroll.from.kubernetes {
		// Nobody tells when a namespace is made.
		about.MaxBackoff, about.Audit = time.Second, 5*time.Second
		e := enroll.New(about)
		follow(p, e, enroll.Workloads{Store: p.Store, Node: o.Node}.Run)
		return nil
	}
	client, err := o.enroll.client(p)
	if err != nil {
		return fmt.Errorf("flag --enroll: %w", err)
	}
	ns, err := o.enroll.host() // open as long as we run
	if err != nil {
		return fmt.Errorf("flag --enroll: %w", err)
	}
	host, err := capture.OpenHost(ns)
	if err != nil {
		return errors.Join(fmt.Errorf("flag --enroll: rules of the node: %w", err), ns.Close())
	}
	k := enroll.Kubernetes{Client: client, Node: o.Node}
	about.Node, about.Mark = host, k.Mark
	follow(p, enroll.New(about), k.Run)
	return nil
}

// follow runs e and who tells it of pods, until the program ends.
func follow(p *program.Process, e *enroll.Enroller, tell func(context.Context, *enroll.Enroller)) {
	p.Go(func() error { e.Run(p.Context()); return nil })
	p.Go(func() error { tell(p.Context(), e); return nil })
}

// unenrollCommand returns the command that undoes --enroll on a node.
func unenrollCommand() *cobra.Command {
	var o enrollOptions
	var node string
	c := &cobra.Command{
		Use:   "unenroll --from FROM [--node NAME]",
		Short: "Remove from a node what ztunnel --enroll left",
		Long: `Remove from a node what ztunnel --enroll left: a node tunnel that ends leaves the
rules in pods, for its successor. What no tunnel serves any more is cut off until
they are gone.

The rules of every network namespace, the rules of the node and the pods'
annotations are removed. No node tunnel may run meanwhile.`,
	}
	set := c.Flags()
	flags.Define(set, &o.from, "from", "FROM", "", parseFrom, "what --enroll was. "+enrollUsage)
	flags.Define(set, &node, "node", "NAME", "", flags.Text, "the node, in Kubernetes", "NODE_NAME")
	o.defineProc(set)
	return flags.Command(c, func(c *cobra.Command) error {
		if o.from.kubernetes && node == "" {
			return errors.New("flag --node: is required in Kubernetes")
		}
		return o.undo(c, node)
	}, "from")
}

// undo does all it can, whatever fails.
func (o *enrollOptions) undo(c *cobra.Command, node string) error {
	rules, err := enroll.Undo(o.finder())
	errs := []error{err}
	fmt.Fprintf(c.OutOrStdout(), "rules removed from %d network namespaces\n", rules)
	if !o.from.kubernetes {
		return errors.Join(errs...)
	}
	if ns, err := o.host(); err != nil {
		errs = append(errs, err)
	} else {
		errs = append(errs, capture.RemoveHost(ns), ns.Close())
	}
	marks, err := o.unmark(c.Context(), node)
	if err == nil {
		fmt.Fprintf(c.OutOrStdout(), "annotations removed from %d pods\n", marks)
	}
	return errors.Join(append(errs, err)...)
}

func (o *enrollOptions) unmark(ctx context.Context, node string) (int, error) {
	client, err := o.client(nil)
	if err != nil {
		return 0, err
	}
	return enroll.Kubernetes{Client: client, Node: node}.Unmark(ctx)
}
