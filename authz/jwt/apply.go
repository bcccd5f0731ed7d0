package jwt

import (
	"slices"
	"strings"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// Details is what the access log says about a refusal, in response_code_details:
// jwt_authn_access_denied{…}. It is "" if Allowed.
func (res *Result) Details() string {
	switch {
	case res.Allowed:
		return ""
	case res.set.closed != "":
		return res.set.closed
	}
	return res.Reason.Details()
}

// Challenge returns the field www-authenticate of a refusal of req (RFC 6750,
// section 3), with as much of the path as Envoy tells.
func (res *Result) Challenge(req *l7.Request) string {
	const maxPath = 256
	path := req.Path
	if len(path) > maxPath {
		path = path[:maxPath]
	}
	value := `Bearer realm="` + req.Scheme + "://" + req.Authority + path + `"`
	if res.Reason != Missing {
		value += `, error="invalid_token"`
	}
	return value
}

// Apply changes req, which was allowed, to what goes on: without the tokens that
// are not forwarded and without the fields that only a rule may write, which are
// then written. It edits req.Fields in place.
func (res *Result) Apply(req *l7.Request) {
	if res.set == nil {
		return
	}
	if len(res.set.outputs) > 0 {
		req.Fields = without(req.Fields, res.set.outputs)
	}
	for _, at := range res.gone {
		switch at.kind {
		case inHeader:
			req.Fields = req.Fields.Del(at.name)
		case inParam:
			req.Path = withoutParam(req.Path, at.name)
		case inCookie:
			req.Fields = withoutCookie(req.Fields, at.name)
		}
	}
	req.Fields = append(req.Fields, res.added...)
}

// without returns fields without those called one of names, in place.
func without(fields []l7.Field, names []string) []l7.Field {
	return slices.DeleteFunc(fields, func(f l7.Field) bool { return slices.Contains(names, f.Name) })
}

// withoutParam returns path without the parameters called name. The others stay
// as they are.
func withoutParam(path, name string) string {
	head, query, ok := strings.Cut(path, "?")
	if !ok {
		return path
	}
	var kept []string
	for _, pair := range strings.Split(query, "&") {
		if key, _, _ := strings.Cut(pair, "="); unescape(key) != name {
			kept = append(kept, pair)
		}
	}
	if len(kept) == 0 {
		return head
	}
	return head + "?" + strings.Join(kept, "&")
}

// withoutCookie returns fields without the cookies called name. A cookie field
// of which nothing is left goes.
func withoutCookie(fields l7.Fields, name string) l7.Fields {
	out := fields[:0]
	for _, f := range fields {
		if f.Name == "cookie" {
			var kept []string
			for _, pair := range strings.Split(f.Value, ";") {
				pair = strings.TrimLeft(pair, " ")
				if key, _, ok := strings.Cut(pair, "="); !ok || key != name {
					kept = append(kept, pair)
				}
			}
			if f.Value = strings.Join(kept, "; "); f.Value == "" {
				continue
			}
		}
		out = append(out, f)
	}
	return out
}
