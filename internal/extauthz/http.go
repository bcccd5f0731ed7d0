package extauthz

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/l7"
)

const (
	// maxAnswer is the longest body of an authorizer's that is passed on: 64 KiB.
	maxAnswer = 64 << 10

	// idempotency is a field that has net/http ask again when a connection that it
	// kept turns out to be closed.
	idempotency = "Idempotency-Key"

	// toRemove is a field of an answer that lists fields to be removed.
	toRemove = "x-envoy-auth-headers-to-remove"
)

// overHTTP asks with the request's own method and path.
func overHTTP(p *authz.Provider, dial func(context.Context) (net.Conn, error)) (ask func(context.Context, *Request) (Answer, error), end func()) {
	transport := &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        90 * time.Second,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxAnswer,
	}
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // it is the client's to follow
	}
	ask = func(ctx context.Context, r *Request) (Answer, error) {
		req, err := question(ctx, p, r)
		if err != nil { // it is the request that is at fault: who sent it must not profit from failOpen
			return Answer{Status: http.StatusBadRequest}, nil
		}
		resp, err := client.Do(req)
		if err != nil {
			return Answer{}, err
		}
		defer resp.Body.Close()
		return fromHTTP(p, resp)
	}
	return ask, transport.CloseIdleConnections
}

// question makes the request to the authorizer: the method, path and host of the
// one it is about, some of its fields, and its content only if the provider
// says so.
func question(ctx context.Context, p *authz.Provider, r *Request) (*http.Request, error) {
	if r.Head == nil {
		return nil, errors.New("a connection that is not HTTP cannot be asked about")
	}
	target := p.PathPrefix + r.Head.Path
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return nil, fmt.Errorf("the path cannot be asked about: %w", err)
	}
	u.Scheme, u.Host = "http", net.JoinHostPort(hostOf(p.Service), strconv.Itoa(int(p.Port)))
	req := (&http.Request{Method: r.Head.Method, URL: u, Host: r.Head.Authority, Header: http.Header{}}).WithContext(ctx)
	if p.Body != nil {
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.Content)), nil }
		req.Body, _ = req.GetBody()
		req.ContentLength = int64(len(r.Content))
		req.Header.Set(partialBody, strconv.FormatBool(r.Partial))
	}
	for _, f := range r.Head.Fields {
		if (f.Name == "authorization" || matches(p.IncludeHeaders, f.Name)) && !ofConnection(f.Name) {
			req.Header.Add(f.Name, f.Value)
		}
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header["User-Agent"] = nil // or net/http would send its own
	}
	for _, f := range p.AdditionalHeaders {
		req.Header.Set(f.Name, f.Value)
	}
	if req.Header.Get(idempotency) == "" {
		req.Header[idempotency] = []string{} // not sent; a question may be asked again whatever its method
	}
	return req, nil
}

// fromHTTP reads an answer: 200 lets the request pass, a 5xx is none.
func fromHTTP(p *authz.Provider, resp *http.Response) (Answer, error) {
	if resp.StatusCode >= 500 {
		return Answer{}, fmt.Errorf("it answered %s", resp.Status)
	}
	fields := fieldsOf(resp.Header)
	if resp.StatusCode == http.StatusOK {
		a := Answer{Allowed: true}
		for _, f := range fields {
			if matches(p.HeadersToUpstream, f.Name) {
				a.Edits = appendSet(a.Edits, f)
			}
			if matches(p.HeadersToClient, f.Name) {
				a.Response = appendSet(a.Response, f)
			}
		}
		for name := range strings.SplitSeq(fields.Get(toRemove), ",") {
			a.Edits = append(a.Edits, Edit{Action: Remove, Name: strings.ToLower(strings.TrimSpace(name))})
		}
		a.Edits, a.Response = valid(a.Edits), valid(a.Response)
		return a, nil
	}
	a := Answer{Status: resp.StatusCode}
	for _, f := range fields {
		if p.HeadersToClientNot == nil || f.Name == "www-authenticate" || f.Name == "location" || matches(p.HeadersToClientNot, f.Name) {
			a.Fields = append(a.Fields, f)
		}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return Answer{}, err
	}
	a.Body = body
	return a, nil
}

// appendSet sets a field the first time that it is named, and adds to it after.
func appendSet(edits []Edit, f l7.Field) []Edit {
	e := Edit{Name: f.Name, Value: f.Value}
	if slices.ContainsFunc(edits, func(o Edit) bool { return o.Name == f.Name }) {
		e.Action = Append
	}
	return append(edits, e)
}

// fieldsOf returns what is not of the connection, by name.
func fieldsOf(h http.Header) l7.Fields {
	var f l7.Fields
	for name, values := range h {
		if name = strings.ToLower(name); !ofConnection(name) {
			for _, v := range values {
				f = append(f, l7.Field{Name: name, Value: v})
			}
		}
	}
	slices.SortStableFunc(f, func(a, b l7.Field) int { return strings.Compare(a.Name, b.Name) })
	return f
}

// matches reports whether a header's name, in lower case, is in a list of
// patterns.
func matches(patterns []string, name string) bool {
	for _, s := range patterns {
		s = strings.ToLower(s)
		if prefix, ok := strings.CutSuffix(s, "*"); ok && strings.HasPrefix(name, prefix) {
			return true
		}
		if suffix, ok := strings.CutPrefix(s, "*"); ok && strings.HasSuffix(name, suffix) {
			return true
		}
		if s == name {
			return true
		}
	}
	return false
}
