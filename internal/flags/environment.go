package flags

import (
	"fmt"

	"github.com/spf13/pflag"
)

// Suggest gives a flag a value that goes before its default, and after both the
// flag itself and its variables. from says where the value is from, for the error.
func Suggest(set *pflag.FlagSet, lookup func(string) (string, bool), name, value, from string) error {
	f := set.Lookup(name)
	if f.Changed {
		return nil
	}
	for _, variable := range f.Annotations[Environment] {
		if text, ok := lookup(variable); ok && text != "" {
			return nil
		}
	}
	if err := f.Value.Set(value); err != nil {
		return fmt.Errorf("%s (as --%s): %q: %w", from, name, value, err)
	}
	f.Changed = true
	return nil
}
