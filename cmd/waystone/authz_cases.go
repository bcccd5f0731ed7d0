package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/waystone-mesh/waystone/internal/policy"
)

func testCommand() *cobra.Command {
	var (
		f      meshFlags
		output string
	)
	c := &cobra.Command{
		Use:   "test CASES.yaml… [flags]",
		Short: "Run unit tests of policies",
		Long: `Run unit tests of policies: each case is a request, and what is to become of it.

    policies: [.., ../candidate]         # files and directories, from here
    defaults: {to: Service/shop/cart}    # what every case has that does not say
    cases:
    - name: the storefront reads carts
      from: shop/storefront              # none: a client in plaintext
      method: GET
      path: /cart/1
      expect: allow                      # or deny
      policy: shop/cart-storefront       # the one that has to decide; none: no ALLOW rule
    - name: and deletes none
      from: shop/storefront
      method: DELETE
      expect: deny
      status: 403

A case may also have to, sourceIP, host, port, headers (a mapping), sni, tcp, at
(waypoint or node), waypoint, jwt (a mapping: the claims of a token that is taken as
valid) and answers (what authorizers say: a mapping of their names to allow or
deny). -f adds to the policies of the files.`,
		Example: `  waystone authz test examples/policies/test/cases.yaml`,
	}
	f.define(c)
	c.Flags().StringVarP(&output, "output", "o", "text", "text, tap or junit")
	return answering(c, cobra.MinimumNArgs(1), func(c *cobra.Command, files []string) error {
		if err := oneOf("output", output, "text", "tap", "junit"); err != nil {
			return err
		}
		var results []policy.Result
		for _, name := range files {
			some, err := f.test(c, name)
			if err != nil {
				return err
			}
			results = append(results, some...)
		}
		text, err := policy.Text(results), error(nil)
		switch output {
		case "tap":
			text = policy.TAP(results)
		case "junit":
			text, err = policy.JUnit(results)
		}
		if err != nil {
			return err
		}
		if _, err := fmt.Fprint(c.OutOrStdout(), text); err != nil {
			return err
		}
		if policy.Failed(results) > 0 {
			return no
		}
		return nil
	})
}

// test runs the cases of a file.
func (f *meshFlags) test(c *cobra.Command, name string) ([]policy.Result, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	s, err := policy.ReadCases(name, data)
	if err != nil {
		return nil, err
	}
	with := *f
	with.paths = append(append([]string{}, s.Policies...), f.paths...)
	if s.Options.TrustDomain != "" {
		with.o.TrustDomain = s.Options.TrustDomain
	}
	if s.Options.RootNamespace != "" {
		with.o.RootNamespace = s.Options.RootNamespace
	}
	if len(with.paths) == 0 {
		return nil, fmt.Errorf("%s: policies: there are none, and no -f", name)
	}
	m, err := with.mesh()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return policy.Test(c.Context(), s, m, time.Now()), nil
}
