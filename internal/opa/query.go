package opa

import (
	"context"
	"errors"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// A Query is a question to a set of Rego modules. It is immutable and safe for
// concurrent use.
type Query struct{ prepared rego.PreparedEvalQuery }

// Prepare compiles modules, by file name, and a question about them: a reference
// such as data.waystone.authz.answer.
func Prepare(ctx context.Context, question string, modules map[string]string) (*Query, error) {
	s := source{modules: map[string]*ast.Module{}}
	if err := s.addAll(modules); err != nil {
		return nil, err
	}
	c, err := s.compile()
	if err != nil {
		return nil, err
	}
	return c.prepare(ctx, question)
}

// errUndefined is why there is no answer: no rule gave one.
var errUndefined = errors.New("opa: the decision is undefined")

// Eval answers the question about a document, as JSON is decoded. It is an error
// if the answer is undefined, or does not come before ctx is done.
func (q *Query) Eval(ctx context.Context, input any) (any, error) {
	value, err := ast.InterfaceToValue(input)
	if err != nil {
		return nil, fmt.Errorf("opa: input: %w", err)
	}
	return q.eval(ctx, value)
}

func (q *Query) eval(ctx context.Context, input ast.Value) (any, error) {
	// In place of the goroutine that rego.Eval would start to wait for ctx.
	halt := topdown.NewCancel()
	defer context.AfterFunc(ctx, halt.Cancel)()
	results, err := q.prepared.Eval(ctx, rego.EvalParsedInput(input), rego.EvalExternalCancel(halt))
	switch {
	case ctx.Err() != nil && err != nil:
		return nil, fmt.Errorf("opa: there is no decision in time: %w", context.Cause(ctx))
	case err != nil:
		return nil, fmt.Errorf("opa: evaluate: %w", located(err))
	case len(results) == 0:
		return nil, errUndefined
	}
	return results[0].Expressions[0].Value, nil
}

// A compiled is modules that have been compiled, and the data beside them.
type compiled struct {
	compiler *ast.Compiler
	store    storage.Store
}

// prepare makes a question ready to be asked.
func (c *compiled) prepare(ctx context.Context, question string) (*Query, error) {
	prepared, err := rego.New(rego.Query(question), rego.Compiler(c.compiler), rego.Store(c.store)).PrepareForEval(ctx)
	if err != nil {
		return nil, located(err)
	}
	return &Query{prepared}, nil
}

// defines reports whether there is a rule, or data, at a path.
func (c *compiled) defines(path ast.Ref) bool { return len(c.compiler.GetRules(path)) > 0 }
