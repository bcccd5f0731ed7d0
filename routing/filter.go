package routing

import (
	"net"
	"strconv"
	"strings"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// ApplyRequest makes the rule's changes to a request that is forwarded: header
// edits, then the rewrite. The fields are edited in place where they fit.
func (r *Rule) ApplyRequest(req *l7.Request) {
	r.Filters.Request.applyRequest(req)
	w := r.Filters.Rewrite
	if w == nil {
		return
	}
	if w.Hostname != "" {
		req.Authority = w.Hostname
	}
	req.Path = w.Path.apply(r.prefix, req.Path)
}

// ApplyResponse makes the rule's changes to the final response.
func (r *Rule) ApplyResponse(resp *l7.Response) {
	resp.Fields = r.Filters.Response.apply(resp.Fields)
}

// ApplyRequest makes the backend's changes to a request, after the rule's.
func (b *Backend) ApplyRequest(req *l7.Request) { b.Filters.Request.applyRequest(req) }

// ApplyResponse makes the backend's changes to the final response, before the
// rule's.
func (b *Backend) ApplyResponse(resp *l7.Response) {
	resp.Fields = b.Filters.Response.apply(resp.Fields)
}

// applyRequest is apply, for which the host is the authority.
func (e *HeaderEdit) applyRequest(req *l7.Request) {
	if e == nil {
		return
	}
	for i := range e.Set {
		if e.Set[i].Name == "host" {
			req.Authority = e.Set[i].Value
		}
	}
	req.Fields = e.apply(req.Fields)
}

func (e *HeaderEdit) apply(f l7.Fields) l7.Fields {
	if e == nil {
		return f
	}
	for i := range e.Set {
		if e.Set[i].Name != "host" {
			f = f.Set(e.Set[i].Name, e.Set[i].Value)
		}
	}
	f = append(f, e.Add...)
	for _, name := range e.Remove {
		f = f.Del(name)
	}
	return f
}

// apply returns the path, with its query, after the edit. The prefix has no
// trailing slash. It allocates only when something stands before what is left
// of the path.
func (p *PathEdit) apply(prefix, path string) string {
	if p == nil || path == "*" {
		return path
	}
	query := strings.IndexByte(path, '?')
	if query < 0 {
		query = len(path)
	}
	if !p.Prefix {
		return p.Value + path[query:]
	}
	if query < len(prefix) {
		return path // not what the rule matched
	}
	value := strings.TrimSuffix(p.Value, "/")
	if value == "" && query == len(prefix) {
		value = "/"
	}
	if value == "" {
		return path[len(prefix):]
	}
	return value + path[len(prefix):]
}

// Redirect returns the response of a rule that redirects, and whether it does.
// The port is the one the request was addressed to, which stands in for the
// listener's of the Gateway API.
//
// A redirect that names a port gets it, one that names a scheme gets the
// scheme's own, and any other keeps the port that was asked; and 80 for http
// and 443 for https are left out of the location.
func (r *Rule) Redirect(req *l7.Request, port uint16) (*l7.Response, bool) {
	d := r.Filters.Redirect
	if d == nil {
		return nil, false
	}
	scheme, host, path := d.Scheme, d.Hostname, d.Path.apply(r.prefix, req.Path)
	switch {
	case d.Port != 0:
		port = d.Port
	case d.Scheme != "":
		port = wellKnown(d.Scheme)
	}
	if scheme == "" {
		scheme = req.Scheme
	}
	if scheme == "" {
		scheme = "http"
	}
	if host == "" {
		host = hostOf(req.Authority)
	}
	if port != 0 && port != wellKnown(scheme) {
		host += ":" + strconv.Itoa(int(port))
	}
	if path == "*" {
		path = "/"
	}
	status := d.Status
	if status == 0 {
		status = 302
	}
	return &l7.Response{Status: status, Fields: l7.Fields{{Name: "location", Value: scheme + "://" + host + path}}}, true
}

// wellKnown returns the port of a scheme, or 0.
func wellKnown(scheme string) uint16 {
	switch scheme {
	case "http":
		return 80
	case "https":
		return 443
	}
	return 0
}

// hostOf returns an authority without its port; an IPv6 address keeps its
// brackets.
func hostOf(authority string) string {
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		return authority
	}
	if strings.IndexByte(host, ':') >= 0 {
		return "[" + host + "]"
	}
	return host
}
