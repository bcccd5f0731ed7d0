package lint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
)

// values looks for values that no request has.
func (l *linter) values(s *subject) {
	for _, f := range s.fields {
		var useless []int
		why := map[int][2]string{}
		for i, v := range f.Values {
			if reason, mend := l.value(s, f, v); reason != "" {
				useless, why[i] = append(useless, i), [2]string{reason, mend}
			}
		}
		check, level := UselessValue, Warning
		if len(useless) == len(f.Values) && !f.Not {
			check, level = NeverMatches, Error
		}
		if check == NeverMatches {
			l.useless[s.name()+ruleField(f.Rule)] = true
		}
		for _, i := range useless {
			l.add(check, level, s, fmt.Sprintf("%s[%d]", f.Path, i), why[i][0], why[i][1])
		}
	}
}

// value says why a value can never be there, and what may have been meant.
func (l *linter) value(s *subject, f authz.Field, v string) (reason, mend string) {
	if f.Name == "ports" || f.Name == "destination.port" {
		return l.port(s, v)
	}
	check := valueChecks[f.Name]
	if check == nil {
		check = inner
	}
	return check(v)
}

// valueChecks are the checks of fields, and of conditions on the same.
var valueChecks = map[string]func(v string) (reason, mend string){
	"principals":             principal,
	"source.principal":       principal,
	"namespaces":             namespace,
	"source.namespace":       namespace,
	"serviceAccounts":        nil,
	"requestPrincipals":      requestPrincipal,
	"request.auth.principal": requestPrincipal,
	"hosts":                  host,
	"methods":                method,
	"connection.sni":         serverName,
	"paths":                  path,
}

func principal(v string) (reason, mend string) {
	if rest, ok := strings.CutPrefix(v, "spiffe://"); ok {
		return "a principal is written without spiffe://", fmt.Sprintf("write %q", rest)
	}
	if reason, mend = inner(v); reason != "" {
		return reason, mend
	}
	parts := strings.Split(v, "/")
	if !strings.Contains(v, "*") && (len(parts) != 5 || parts[1] != "ns" || parts[3] != "sa") {
		return "a principal is of the form trust-domain/ns/namespace/sa/account", "write all of it, or begin or end it with *"
	}
	return "", ""
}

func namespace(v string) (reason, mend string) {
	if strings.Contains(v, "/") {
		return "a namespace has no slash", "write the namespace alone"
	}
	return "", ""
}

func requestPrincipal(v string) (reason, mend string) {
	switch {
	case v == "*/*":
		return `the subject would have to be "*": a "*" stands for any only at one end`, `write "*"`
	case strings.HasSuffix(v, "/"), !strings.Contains(v, "/") && !strings.HasPrefix(v, "*") && !strings.HasSuffix(v, "*"):
		return "there is no subject in it, and no token is without", fmt.Sprintf(`write "%s/*" for every subject of the issuer`, strings.TrimSuffix(v, "/"))
	}
	return "", ""
}

func host(v string) (reason, mend string) {
	if i := strings.Index(v, "://"); i >= 0 {
		return "a host has no scheme", fmt.Sprintf("write %q", strings.TrimSuffix(v[i+3:], "/"))
	}
	if strings.Contains(v, "/") {
		return "a host has no path", "write the path under paths"
	}
	return inner(v)
}

func method(v string) (reason, mend string) {
	if upper := strings.ToUpper(v); upper != v {
		return "methods are in upper case", fmt.Sprintf("write %q", upper)
	}
	return inner(v)
}

func serverName(v string) (reason, mend string) {
	if lower := strings.ToLower(v); lower != v {
		return "server names are compared in lower case", fmt.Sprintf("write %q", lower)
	}
	return inner(v)
}

func path(v string) (reason, mend string) {
	if i := strings.IndexAny(v, "?#"); i >= 0 {
		return "a path is matched without its query and fragment", fmt.Sprintf("write %q", v[:i])
	}
	if !strings.HasPrefix(v, "/") && !strings.HasPrefix(v, "*") && !strings.HasPrefix(v, "{") {
		return "a path begins with a slash", fmt.Sprintf("write %q", "/"+v)
	}
	if strings.Contains(v, "{") {
		return "", ""
	}
	if reason, _ = inner(v); reason != "" {
		return reason, "write {*} for one segment, or {**} for any number of them"
	}
	return "", ""
}

// inner looks for a "*" that stands for itself. It may well be meant, but hardly
// ever is.
func inner(v string) (reason, mend string) {
	rest := strings.TrimPrefix(v, "*")
	if len(rest) == len(v) {
		rest = strings.TrimSuffix(v, "*")
	}
	if v != "*" && strings.Contains(rest, "*") {
		return fmt.Sprintf(`of %q only one "*" at an end stands for anything; the other stands for itself`, v), `write one "*", at the beginning or at the end`
	}
	return "", ""
}

// port looks for a port that nothing the policy is attached to has. A waypoint
// sees the port of the Service, and workloads listen on the target port.
func (l *linter) port(s *subject, v string) (reason, mend string) {
	if len(s.reach.services) == 0 || len(s.reach.waypoints) > 0 {
		return "", ""
	}
	var ports []string
	target := ""
	for i := range l.world.Services {
		svc := &l.world.Services[i]
		if !s.reach.services[svc] {
			continue
		}
		for _, p := range svc.Ports {
			number := fmt.Sprint(p.Number)
			if number == v {
				return "", ""
			}
			if fmt.Sprint(p.Target) == v {
				target = number
			}
			if !slices.Contains(ports, number) {
				ports = append(ports, number)
			}
		}
	}
	if len(ports) == 0 {
		return "", ""
	}
	if target != "" {
		return fmt.Sprintf("%s is a target port; a waypoint sees the port of the Service, %s", v, target), fmt.Sprintf("write %q", target)
	}
	return fmt.Sprintf("nothing that the policy is attached to has the port %s", v), "write one of " + list(ports)
}
