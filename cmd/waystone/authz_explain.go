package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waystone-mesh/waystone/internal/policy"
)

// explainFlags are the flags of authz explain.
type explainFlags struct {
	meshFlags
	r        policy.Request
	source   string
	headers  []string
	token    string
	keys     []string
	waypoint string
	admin    string
	output   string
}

func explainCommand() *cobra.Command {
	var f explainFlags
	c := &cobra.Command{
		Use:   "explain -f PATH --to TARGET [flags]",
		Short: "Say what would become of a request, and why",
		Long: `Say what would become of a request, and why: which policies apply and from where,
what each of their rules says and, of a refusal, what was wanted and what was there
in the rule that is nearest to matching.

The request is followed through the waypoint before its destination and through the
node tunnel before each pod that it can come to: it has to pass both. There the
client is the waypoint.

A running waypoint can be asked in the place of files: forward its admin port with

    kubectl port-forward POD 15000

and give --waypoint NS/NAME without -f, or --admin ADDRESS if it is another. What
is asked is its configuration in force, not what it has decided: for that, see
/authz/recent there.

A JWT is verified with the keys in the manifests. Nothing is fetched: for an issuer
whose keys are elsewhere, give them with --jwks URI=FILE, where URI is the jwksUri
or, without one, the issuer.`,
		Example: `  waystone authz explain -f examples/policies --to Service/shop/cart --from shop/storefront --method DELETE --path /cart/1`,
	}
	f.define(c)
	set := c.Flags()
	set.StringVar(&f.r.To, "to", "", "Service/NS/NAME, Gateway/NS/NAME, Workload/NS/NAME (a pod), an address or a host name; each may end with :PORT")
	set.StringVar(&f.r.From, "from", "", "the client's NS/ACCOUNT, or its whole principal; none: it is in plaintext")
	set.StringVar(&f.source, "source-ip", "", "the client's address (default: that of a pod of its account)")
	set.StringVar(&f.r.Method, "method", "GET", "of the request")
	set.StringVar(&f.r.Path, "path", "/", "of the request, with its query")
	set.StringVar(&f.r.Host, "host", "", "the Host field (default: what the target is called)")
	set.Uint16Var(&f.r.Port, "port", 0, "that is dialled (default: the target's)")
	set.StringArrayVar(&f.headers, "header", nil, `a header field, "name: value"; may be given again`)
	set.StringVar(&f.token, "jwt", "", "a file with a JWT, which is sent as the bearer; - is standard input")
	set.StringArrayVar(&f.keys, "jwks", nil, "URI=FILE: the key set that would be fetched there; may be given again")
	set.BoolVar(&f.r.TrustToken, "trust-jwt", false, "take the JWT as valid, whoever signed it")
	set.StringVar(&f.r.SNI, "sni", "", "the server name, of a client that begins TLS")
	set.BoolVar(&f.r.TCP, "tcp", false, "it is a connection that is not HTTP")
	set.StringVar(&f.r.At, "at", "", "ask this proxy only: waypoint or node")
	set.StringVar(&f.waypoint, "waypoint", "", "NS/NAME: ask this waypoint, and not the target's own")
	set.StringVar(&f.admin, "admin", "", "the admin address of a running waypoint")
	set.StringVarP(&f.output, "output", "o", "text", "text or json")
	return answering(c, cobra.NoArgs, func(c *cobra.Command, _ []string) error { return f.run(c) })
}

func (f *explainFlags) run(c *cobra.Command) error {
	if err := errors.Join(oneOf("output", f.output, "text", "json"), f.request(c)); err != nil {
		return err
	}
	m, err := f.load(c)
	if err != nil {
		return err
	}
	report, err := m.Explain(c.Context(), f.r, time.Now())
	if err != nil {
		return err
	}
	if f.output == "json" {
		err = writeJSON(c, report)
	} else {
		_, err = fmt.Fprint(c.OutOrStdout(), report)
	}
	if err == nil && !report.Allowed {
		return no
	}
	return err
}

// load returns the mesh: from files, or from a running waypoint.
func (f *explainFlags) load(c *cobra.Command) (*policy.Mesh, error) {
	const forwarded = "127.0.0.1:15000"
	switch {
	case f.admin == "" && (f.waypoint == "" || len(f.paths) > 0):
		return f.mesh()
	case len(f.paths) > 0:
		return nil, errors.New("flag --admin: either a running waypoint is asked or files are, not both")
	case f.admin == "":
		f.admin = forwarded
	}
	o, err := f.options()
	if err != nil {
		return nil, err
	}
	return policy.Running(c.Context(), o, f.admin, f.r.Waypoint)
}

// request reads the flags that say what is asked.
func (f *explainFlags) request(c *cobra.Command) (err error) {
	if f.source != "" {
		if f.r.SourceIP, err = netip.ParseAddr(f.source); err != nil {
			return fmt.Errorf("flag --source-ip: %q is not an IP address", f.source)
		}
	}
	if f.waypoint != "" {
		if f.r.Waypoint, err = policy.ParseName(f.waypoint); err != nil {
			return fmt.Errorf("flag --waypoint: %w", err)
		}
	}
	for _, text := range f.headers {
		field, err := policy.ParseField(text)
		if err != nil {
			return fmt.Errorf("flag --header: %w", err)
		}
		f.r.Fields = append(f.r.Fields, field)
	}
	if f.r.Token, err = readToken(c, f.token); err != nil {
		return err
	}
	for _, text := range f.keys {
		i := strings.LastIndexByte(text, '=')
		if i < 1 {
			return fmt.Errorf("flag --jwks: %q is not of the form URI=FILE", text)
		}
		data, err := readFile(c, text[i+1:])
		if err == nil {
			err = f.r.AddKeys(text[:i], data)
		}
		if err != nil {
			return fmt.Errorf("flag --jwks: %s: %w", text[:i], err)
		}
	}
	return nil
}

// writeJSON writes v for programs, and for people who look.
func writeJSON(c *cobra.Command, v any) error {
	e := json.NewEncoder(c.OutOrStdout())
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
