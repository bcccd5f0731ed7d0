package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waystone-mesh/waystone/internal/policy"
)

func lintCommand() *cobra.Command {
	var (
		f      meshFlags
		strict bool
		output string
	)
	c := &cobra.Command{
		Use:   "lint -f PATH [flags]",
		Short: "Find policies that do not do what they seem to",
		Long: `Find policies that do not do what they seem to: that attach to nothing, that another
shadows, that can never match, that do more where a connection is not HTTP, that the
node tunnel sees nothing of, or that a waypoint ignores. Each with the reason, and
the mend.

If there is nothing but policies in the files, nothing is said to be missing.`,
		Example: `  waystone authz lint -f examples/policies -f examples/policies/mistakes`,
	}
	f.define(c)
	c.Flags().BoolVar(&strict, "strict", false, "exit with status 1 on warnings, too")
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return answering(c, cobra.NoArgs, func(c *cobra.Command, _ []string) error {
		if err := oneOf("output", output, "text", "json"); err != nil {
			return err
		}
		m, err := f.mesh()
		if err != nil {
			return err
		}
		findings := m.Lint()
		if output == "json" {
			if err := writeJSON(c, append([]policy.Finding{}, findings...)); err != nil {
				return err
			}
		} else if _, err := fmt.Fprint(c.OutOrStdout(), policy.Findings(findings)); err != nil {
			return err
		}
		if errors, warnings := policy.Worst(findings); errors || strict && warnings {
			return no
		}
		return nil
	})
}

func regoCommand() *cobra.Command {
	var (
		f     meshFlags
		names []string
		o     policy.RegoOptions
	)
	c := &cobra.Command{
		Use:   "rego -f PATH [flags]",
		Short: "Write policies in Rego",
		Long: `Write policies in Rego, OPA's language, with what they need to be evaluated: all of
them, or those named, as if they were attached to one destination. It is the form
in which OPA is the oracle of our own tests, and is meant to be read, too.`,
		Example: `  waystone authz rego -f examples/policies --policy shop/cart-storefront`,
	}
	f.define(c)
	c.Flags().StringSliceVar(&names, "policy", nil, "NS/NAME of a policy; may be given again (default: all)")
	c.Flags().BoolVar(&o.Node, "node", false, "as the node tunnel sees them, without HTTP")
	c.Flags().BoolVar(&o.Bare, "bare", false, "without the functions that they are written with")
	return answering(c, cobra.NoArgs, func(c *cobra.Command, _ []string) error {
		for _, name := range names {
			k, err := policy.ParseName(name)
			if err != nil {
				return fmt.Errorf("flag --policy: %w", err)
			}
			o.Policies = append(o.Policies, k)
		}
		m, err := f.mesh()
		if err != nil {
			return err
		}
		for _, err := range m.Problems() {
			c.PrintErrln("refused:", err)
		}
		text, err := m.Rego(o)
		if err == nil {
			_, err = fmt.Fprint(c.OutOrStdout(), text)
		}
		return err
	})
}

func guardCommand() *cobra.Command {
	var (
		f    meshFlags
		name string
	)
	c := &cobra.Command{
		Use:   "guard --waypoint NS/NAME -f PATH",
		Short: "Write the policies that close the way around a waypoint",
		Long: `Write the policies that close the way around a waypoint. A client that does not go
through it, one in plaintext or whose node tunnel knows of none, comes to the pods
past all that is attached to the waypoint. What is written has the node tunnel
before the pods take connections of the waypoint only: a policy for each Service that
it serves.

They are tried before they are written: if somebody else could still come in, because
another policy lets them, it is said on standard error and the exit status is 1.`,
		Example: `  waystone authz guard --waypoint shop/waypoint -f examples/policies | kubectl apply -f -`,
	}
	f.define(c)
	c.Flags().StringVar(&name, "waypoint", "", "NS/NAME of its Gateway")
	return answering(c, cobra.NoArgs, func(c *cobra.Command, _ []string) error {
		k, err := policy.ParseName(name)
		if err != nil {
			return fmt.Errorf("flag --waypoint: %w", err)
		}
		o, files, err := f.read()
		if err != nil {
			return err
		}
		text, err := policy.Guard(o, files, k)
		if text == "" {
			return err
		}
		if _, err := fmt.Fprint(c.OutOrStdout(), text); err != nil {
			return err
		}
		if err != nil {
			c.PrintErrln("It is not closed:")
			c.PrintErrln("  " + strings.ReplaceAll(err.Error(), "\n", "\n  "))
			return no
		}
		return nil
	})
}
