package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waystone-mesh/waystone/internal/policy"
)

func authzCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "authz",
		Short: "Explain, test, lint and replay policies, without a proxy",
		Long: `Explain, test, lint and replay AuthorizationPolicies and RequestAuthentications.

They are read from manifests as the proxies read them, and judged by the same
code. What a cluster would add to manifests that were never in one is assumed,
and said: addresses, pods of Deployments, that a namespace is in the mesh. Of an
object in several -f the last counts, as if they were applied in that order.

Exit status: 0 allowed, or all is well; 1 denied, or something is not; 2 the
question could not be answered.`,
	}
	c.AddCommand(explainCommand(), testCommand(), replayCommand(), lintCommand(), regoCommand(), guardCommand())
	return c
}

// A status is an error that is an exit status: what is wrong has been said.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// ExitStatus is what program.Main ends with.
func (s status) ExitStatus() int { return int(s) }

// The exit statuses.
const (
	no     status = 1 // denied, failed, found fault with
	failed status = 2 // the question could not be answered
)

// answering finishes a command that answers with an exit status: run's error is
// printed, unless it is a status itself.
func answering(c *cobra.Command, args cobra.PositionalArgs, run func(*cobra.Command, []string) error) *cobra.Command {
	c.SilenceErrors, c.SilenceUsage = true, true
	c.Flags().SortFlags = false
	say := func(c *cobra.Command, err error) error {
		var s status
		if err == nil || errors.As(err, &s) {
			return err
		}
		c.PrintErrln("Error:", err)
		return failed
	}
	c.SetFlagErrorFunc(say)
	c.Args = func(c *cobra.Command, list []string) error { return say(c, args(c, list)) }
	c.RunE = func(c *cobra.Command, list []string) error { return say(c, run(c, list)) }
	return c
}

// A meshFlags is what says where manifests are, and what they do not say.
type meshFlags struct {
	paths      []string
	meshConfig string
	o          policy.Options
	as         string
}

func (f *meshFlags) define(c *cobra.Command) {
	set := c.Flags()
	set.StringArrayVarP(&f.paths, "filename", "f", nil, "a file or directory of manifests; may be given again")
	set.StringVar(&f.meshConfig, "mesh-config", "", "a file with MeshConfig (default: the ConfigMap istio of the root namespace among the manifests)")
	set.StringVar(&f.o.TrustDomain, "trust-domain", "", "our trust domain (default: as MeshConfig says, or cluster.local)")
	set.StringVar(&f.o.RootNamespace, "root-namespace", "", "the namespace whose policies are for the whole mesh (default: as MeshConfig says, or istio-system)")
	set.StringVar(&f.o.ClusterDomain, "cluster-domain", "cluster.local", "the domain of services' names")
	set.StringVar(&f.as, "compat", "", "behave as that release of Istio, as the proxies' flag; 1.18")
}

// options returns what is said about the mesh.
func (f *meshFlags) options() (policy.Options, error) {
	if f.as != "" && f.as != "1.18" {
		return f.o, errors.New("flag --compat: the only release there is to be compatible with is 1.18")
	}
	f.o.Compat118 = f.as != ""
	return f.o, nil
}

// read reads the manifests.
func (f *meshFlags) read() (policy.Options, *policy.Manifests, error) {
	o, err := f.options()
	if err != nil {
		return o, nil, err
	}
	if len(f.paths) == 0 {
		return o, nil, errors.New("flag --filename, -f: is required: a file or directory of manifests")
	}
	m, err := policy.Read(f.paths...)
	if err == nil && f.meshConfig != "" {
		var data []byte
		if data, err = os.ReadFile(f.meshConfig); err != nil {
			return o, nil, fmt.Errorf("flag --mesh-config: %w", err)
		}
		m.AddMesh(f.meshConfig, data)
	}
	return o, m, err
}

func (f *meshFlags) mesh() (*policy.Mesh, error) {
	o, m, err := f.read()
	if err != nil {
		return nil, err
	}
	return policy.New(o, m), nil
}

// oneOf says what is wrong with the value of a flag that has a few.
func oneOf(flag, value string, values ...string) error {
	for _, v := range values {
		if v == value {
			return nil
		}
	}
	return fmt.Errorf("flag --%s: %q is none of %s", flag, value, strings.Join(values, ", "))
}

// readToken reads a JWT: from a file, or from standard input if it is called -.
func readToken(c *cobra.Command, name string) (string, error) {
	if name == "" {
		return "", nil
	}
	text, err := readFile(c, name)
	if err != nil {
		return "", fmt.Errorf("flag --jwt: %w", err)
	}
	return strings.TrimPrefix(strings.TrimSpace(string(text)), "Bearer "), nil
}

// maxInput is more than a token or a key set has: 1 MiB.
const maxInput = 1 << 20

func readFile(c *cobra.Command, name string) ([]byte, error) {
	if name == "-" {
		return policy.ReadAtMost(c.InOrStdin(), maxInput)
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return policy.ReadAtMost(file, maxInput)
}
