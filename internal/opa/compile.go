package opa

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// A policy is one version of what decides, compiled. It is immutable.
type policy struct {
	decision *Query
	mask     *Query // of decision logs; nil: none
	revision string // of a bundle
}

// newPolicy compiles s, of which the rule at path decides.
//
// It is not evaluated in part. With OPA 1.22 that makes a policy that walks
// through 500 rows of data 40 times as fast (1.2 ms to 0.03 ms), and changes
// nothing about one of 100 or 500 rules, for rules are indexed; but one that looks
// up one of 1,000 keys takes five times as long and half a second to compile,
// with 5,000 keys nine seconds, and a decision that is an object is three times
// as slow: see BenchmarkPrepared. It depends on the policy, so it is its author's
// to choose: what "opa build --optimize" makes is a bundle like any other.
func newPolicy(ctx context.Context, s *source, path string) (*policy, error) {
	c, err := s.compile()
	if err != nil {
		return nil, err
	}
	p := &policy{revision: s.revision}
	ref := reference(path)
	if !c.defines(ref) {
		return nil, fmt.Errorf("no rule is called %s: opa.decision names the one that decides", ref)
	}
	if p.decision, err = c.prepare(ctx, ref.String()); err != nil {
		return nil, err
	}
	if mask := reference("system/log/mask"); c.defines(mask) {
		p.mask, err = c.prepare(ctx, mask.String())
	}
	return p, err
}

// reference turns a path into a reference to data. A part that is a number is
// one, as in OPA.
func reference(path string) ast.Ref {
	ref := ast.Ref{ast.DefaultRootDocument}
	for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if n, err := strconv.Atoi(part); err == nil {
			ref = append(ref, ast.IntNumberTerm(n))
			continue
		}
		ref = append(ref, ast.StringTerm(part))
	}
	return ref
}

// worldly are the built-in functions that reach the network.
var worldly = []string{"http.send", "net.lookup_ip_addr"}

// capabilities are what a policy may do: everything but to reach the network.
// Schemas that refer to others elsewhere would, too.
func capabilities() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool { return slices.Contains(worldly, b.Name) })
	c.AllowNet = []string{}
	return c
}

func (s *source) compile() (*compiled, error) {
	c := ast.NewCompiler().WithCapabilities(capabilities())
	c.Compile(s.modules)
	if c.Failed() {
		return nil, located(c.Errors)
	}
	data := s.data
	if data == nil {
		data = map[string]any{}
	}
	// The documents are ours alone, and read far more often than they change.
	store := inmem.NewFromObjectWithOpts(data, inmem.OptRoundTripOnWrite(false), inmem.OptReturnASTValuesOnRead(true))
	return &compiled{c, store}, nil
}

// maxErrors is how many errors of a policy are told.
const maxErrors = 10

// located says for each of OPA's errors in err where it is, file:line:column, and
// all of it in one line: it is told of a request that was not decided, too.
func located(err error) error {
	var all []string
	add := func(where *ast.Location, message string) {
		message = strings.Join(strings.Fields(message), " ")
		if where != nil && where.File != "" {
			message = fmt.Sprintf("%s:%d:%d: %s", where.File, max(where.Row, 1), max(where.Col, 1), message) // the end of a file has no column
		}
		all = append(all, message)
	}
	var (
		several  ast.Errors
		one      *ast.Error
		prepared rego.Errors
		runtime  *topdown.Error
	)
	switch {
	case errors.As(err, &several):
		for _, e := range several {
			add(e.Location, e.Message+hint(e.Message))
		}
	case errors.As(err, &one):
		add(one.Location, one.Message+hint(one.Message))
	case errors.As(err, &prepared):
		for _, e := range prepared {
			all = append(all, located(e).Error())
		}
	case errors.As(err, &runtime):
		add(runtime.Location, runtime.Message)
	default:
		return err
	}
	if more := len(all) - maxErrors; more > 0 {
		all = append(all[:maxErrors], fmt.Sprintf("and %d more", more))
	}
	return errors.New(strings.Join(all, "; "))
}

// hint says what can be done about a message.
func hint(message string) string {
	for _, name := range worldly {
		if strings.HasSuffix(message, "undefined function "+name) {
			return ": a policy in this process cannot reach the network; put what it needs beside it as data, or run OPA as a service and ask that over envoyExtAuthzGrpc"
		}
	}
	return ""
}
