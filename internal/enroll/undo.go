package enroll

import (
	"context"
	"errors"
	"fmt"

	"github.com/waystone-mesh/waystone/internal/kube"
)

// Undo removes the rules of every namespace that f finds under its Dir, and
// returns of how many. It is for a node that no tunnel serves any more.
func Undo(f Finder) (removed int, err error) {
	var errs []error
	for _, at := range f.All() {
		was, err := removeAt(at, programmed)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", at.Path, err))
		} else if was {
			removed++
		}
	}
	return removed, errors.Join(errs...)
}

// Unmark removes the annotations of every pod of the node, and returns of how
// many.
func (k Kubernetes) Unmark(ctx context.Context) (removed int, err error) {
	all, err := kube.List(ctx, k.Client, kube.PodsOf(k.Node))
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, p := range all {
		if p.Metadata.Annotations[annotationRedirection] == "" {
			continue
		}
		if err := k.Mark(ctx, podFrom(p, ""), ""); err != nil {
			errs = append(errs, err)
		} else {
			removed++
		}
	}
	return removed, errors.Join(errs...)
}
