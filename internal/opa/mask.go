package opa

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// applyMask does to an entry what system.log.mask says: a set of paths, such as
// "/input/attributes/request/http/headers/x-pin", each to be removed; or of
// objects with op, path and value, which "upsert" puts in its place. As in OPA
// only input and result can be named, what is not there is passed over, and
// what was done is noted as erased and masked.
func applyMask(rules any, entry map[string]any) error {
	list, ok := rules.([]any)
	if !ok {
		return fmt.Errorf("it is %s and not a set", kindOf(rules))
	}
	parsed := make([]maskRule, len(list))
	for i, v := range list {
		var err error
		if parsed[i], err = readMaskRule(v); err != nil {
			return err
		}
	}
	for _, m := range parsed {
		if !m.apply(entry) {
			continue
		}
		note := "masked"
		if m.remove {
			note = "erased"
		}
		done, _ := entry[note].([]any)
		entry[note] = append(done, "/"+strings.Join(m.path, "/"))
	}
	return nil
}

// A maskRule is one of a set.
type maskRule struct {
	remove bool
	path   []string // of which the first is input or result
	value  any
}

func readMaskRule(v any) (maskRule, error) {
	m := maskRule{remove: true}
	path, ok := v.(string)
	if object, structured := v.(map[string]any); structured {
		path, ok = object["path"].(string)
		switch object["op"] {
		case "remove":
		case "upsert":
			m.remove, m.value = false, object["value"]
		default:
			return m, fmt.Errorf("op %v is neither remove nor upsert", object["op"])
		}
	}
	if !ok || !strings.HasPrefix(path, "/") {
		return m, errors.New("a path is a string that begins with a slash")
	}
	for part := range strings.SplitSeq(path[1:], "/") {
		name, err := url.PathUnescape(part)
		if err != nil {
			return m, fmt.Errorf("path %q: %w", path, err)
		}
		m.path = append(m.path, name)
	}
	if m.path[0] != "input" && m.path[0] != "result" {
		return m, fmt.Errorf("path %q is neither of input nor of result", path)
	}
	return m, nil
}

// apply reports whether there was something to do.
func (m *maskRule) apply(entry map[string]any) bool {
	if _, there := entry[m.path[0]]; !there {
		return false
	}
	_, done := m.in(entry, m.path) // an object stays the object that it was
	return done
}

// in changes what path names in v, and returns v as it is then.
func (m *maskRule) in(v any, path []string) (any, bool) {
	name, last := path[0], len(path) == 1
	switch v := v.(type) {
	case map[string]any:
		inner, there := v[name]
		switch {
		case last && m.remove:
			delete(v, name)
			return v, there
		case last:
			v[name] = m.value
			return v, true
		case !there && m.remove:
			return v, false
		case !there:
			inner = map[string]any{}
		}
		changed, ok := m.in(inner, path[1:])
		if ok {
			v[name] = changed
		}
		return v, ok
	case []any:
		i, err := strconv.Atoi(name)
		switch {
		case err != nil || i < 0 || i >= len(v):
			return v, false
		case last && m.remove:
			return slices.Delete(v, i, i+1), true
		case last:
			v[i] = m.value
			return v, true
		}
		changed, ok := m.in(v[i], path[1:])
		if ok {
			v[i] = changed
		}
		return v, ok
	}
	return v, false
}
