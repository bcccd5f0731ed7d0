package bookinfo

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/file"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/manifest"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// An Ingress serves the HTTPRoutes of a Gateway. The zero Ingress knows no route;
// it is safe for concurrent use.
type Ingress struct {
	proxy  *httputil.ReverseProxy
	routes atomic.Pointer[[]virtualHost]
}

// A virtualHost is the routes for a host name, or for "" every one.
type virtualHost struct {
	pattern string
	table   *routing.Table
}

// NewIngress returns an Ingress that sends what it lets in over t.
func NewIngress(t http.RoundTripper) *Ingress {
	g := &Ingress{}
	g.proxy = &httputil.ReverseProxy{
		Transport: t,
		Rewrite:   (*httputil.ProxyRequest).SetXForwarded, // the rest is done before, see ServeHTTP
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "upstream: "+err.Error(), http.StatusServiceUnavailable)
		},
	}
	g.Set(nil)
	return g
}

// Set has g serve what a Gateway says; nil is nothing.
func (g *Ingress) Set(in *manifest.Ingress) error {
	byHost := map[string][]*routing.Route{}
	if in != nil {
		for _, r := range in.Routes {
			for _, h := range hostnames(r) {
				byHost[h] = append(byHost[h], r.Route)
			}
		}
	}
	var errs []error
	hosts := []virtualHost{}
	for pattern, routes := range byHost {
		table, err := routing.Compile(routes...)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		hosts = append(hosts, virtualHost{pattern, table})
	}
	slices.SortFunc(hosts, func(a, b virtualHost) int {
		wild := func(p string) int { return strings.Count(p[:min(1, len(p))], "*") }
		return cmp.Or(cmp.Compare(wild(a.pattern), wild(b.pattern)), -cmp.Compare(len(a.pattern), len(b.pattern)), cmp.Compare(a.pattern, b.pattern))
	})
	g.routes.Store(&hosts)
	return errors.Join(errs...)
}

func hostnames(r manifest.IngressRoute) []string {
	if len(r.Hostnames) == 0 {
		return []string{""}
	}
	return r.Hostnames
}

func (v *virtualHost) takes(host string) bool {
	if suffix, ok := strings.CutPrefix(v.pattern, "*"); ok {
		return strings.HasSuffix(host, suffix) && len(host) > len(suffix)
	}
	return v.pattern == "" || v.pattern == host
}

// ServeHTTP sends a request to a backend of the rule that it matches.
func (g *Ingress) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, err := routing.Normalize(routing.NormalizeBase, r.RequestURI)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	req := request(r, path)
	rule := g.match(req)
	if rule == nil {
		http.NotFound(w, r)
		return
	}
	port := uint16(0)
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		port = uint16(a.Port)
	}
	if resp, ok := rule.Redirect(req, port); ok {
		answer(w, resp)
		return
	}
	backend := rule.PickBackend(rand.Uint64())
	if backend == nil || backend.Invalid != "" {
		http.Error(w, "the route has no valid backend", http.StatusInternalServerError)
		return
	}
	rule.ApplyRequest(req)
	backend.ApplyRequest(req)
	g.forward(w, r, req, rule, backend)
}

// request is r as routes look at it.
func request(r *http.Request, path string) *l7.Request {
	req := &l7.Request{Method: r.Method, Scheme: "http", Authority: r.Host, Path: path, Protocol: l7.HTTP11, Length: r.ContentLength}
	for name, values := range r.Header {
		for _, v := range values {
			req.Fields = append(req.Fields, l7.Field{Name: strings.ToLower(name), Value: v})
		}
	}
	return req
}

func (g *Ingress) match(req *l7.Request) *routing.Rule {
	host := req.Authority
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	for _, v := range *g.routes.Load() {
		if v.takes(strings.ToLower(host)) {
			if rule := v.table.Match(req); rule != nil {
				return rule
			}
		}
	}
	return nil
}

func answer(w http.ResponseWriter, resp *l7.Response) {
	for _, f := range resp.Fields {
		w.Header().Add(f.Name, f.Value)
	}
	w.WriteHeader(resp.Status)
}

// forward sends r, as its rule and backend have changed it, to the backend.
func (g *Ingress) forward(w http.ResponseWriter, r *http.Request, req *l7.Request, rule *routing.Rule, b *routing.Backend) {
	out := r.Clone(r.Context())
	u, err := url.ParseRequestURI(req.Path)
	if err != nil {
		http.Error(w, "path: cannot be read", http.StatusBadRequest)
		return
	}
	u.Scheme, u.Host = "http", net.JoinHostPort(b.Service.Host, strconv.Itoa(int(b.Port)))
	out.URL, out.Host, out.RequestURI = u, req.Authority, ""
	out.Header = http.Header{}
	for _, f := range req.Fields {
		out.Header.Add(f.Name, f.Value)
	}
	p := *g.proxy
	p.ModifyResponse = func(resp *http.Response) error {
		change := &l7.Response{Status: resp.StatusCode}
		for name, values := range resp.Header {
			for _, v := range values {
				change.Fields = append(change.Fields, l7.Field{Name: strings.ToLower(name), Value: v})
			}
		}
		b.ApplyResponse(change)
		rule.ApplyResponse(change)
		resp.Header = http.Header{}
		for _, f := range change.Fields {
			resp.Header.Add(f.Name, f.Value)
		}
		return nil
	}
	p.ServeHTTP(w, out)
}

// runIngress serves the listeners that a Gateway has when it begins, and follows
// its routes.
func runIngress(ctx context.Context, set *flag.FlagSet, ip *string, args []string, stderr io.Writer) error {
	path := set.String("config", "", "the manifests: a file or a directory, which is watched")
	name := set.String("gateway", "default/bookinfo-gateway", "the Gateway to serve")
	if err := set.Parse(args); err != nil {
		return err
	}
	namespace, short, ok := strings.Cut(*name, "/")
	if *path == "" || !ok {
		return errors.New("--config and --gateway NAMESPACE/NAME are required")
	}
	key := mesh.Key{Kind: "Gateway", Namespace: namespace, Name: short}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	g := NewIngress(Transport(*ip))
	first := make(chan *manifest.Ingress, 1)
	var source *file.Source
	source = file.New(file.Options{Path: *path, Logger: log, Manifest: manifest.Options{ByLabel: true}, OnRead: func(file.Report) {
		in := source.Ingress(key)
		if err := g.Set(in); err != nil {
			log.Error("route refused", "error", err)
		}
		select {
		case first <- in:
		default: // listeners are those of the first
		}
	}})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- source.Run(ctx, config.NewStore(config.Options{})) }()
	select {
	case err := <-ended:
		return err
	case in := <-first:
		if in == nil {
			return fmt.Errorf("there is no %s", key)
		}
		return g.serve(ctx, *ip, in.Listeners)
	}
}

func (g *Ingress) serve(ctx context.Context, ip string, listeners []manifest.Listener) error {
	errs := make(chan error, len(listeners))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n := 0
	for _, l := range listeners {
		if l.Protocol == "HTTP" {
			n++
			go func() {
				errs <- serve(ctx, net.JoinHostPort(ip, strconv.Itoa(int(l.Port))), g)
				cancel()
			}()
		}
	}
	if n == 0 {
		return errors.New("the Gateway has no HTTP listener")
	}
	var err error
	for range n {
		err = errors.Join(err, <-errs)
	}
	return err
}
