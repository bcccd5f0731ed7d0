package manifest

import "go.yaml.in/yaml/v3"

// Line returns the line of a field of an object, such as
// spec.rules[0].to[0].operation.ports[1]: that of the deepest part of its path
// that is there.
func Line(object *yaml.Node, field string) int {
	n, line := object, object.Line
	for _, step := range steps(field) {
		value, at := descend(n, step)
		if value == nil {
			break
		}
		n, line = value, at
	}
	return line
}
