package jwks

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"

	"github.com/waystone-mesh/waystone/authz/jwt"
)

const (
	maxRedirects = 3
	maxHeader    = 64 << 10
	discovery    = "/.well-known/openid-configuration" // OpenID Connect Discovery 1.0, section 4
)

// A document is what a source said.
type document struct {
	unchanged bool // what it said before
	keys      *jwt.Keys
	skipped   string
	uri, tag  string
	issuer    string // if discovery names another than it was asked for
}

// fetch asks the source for its keys.
func (f *follower) fetch(ctx context.Context) (document, error) {
	doc := document{uri: f.source.URI}
	if doc.uri == "" {
		var err error
		if doc, err = f.discover(ctx); err != nil {
			return document{}, fmt.Errorf("discovery: %w", err)
		}
	}
	tag := ""
	if doc.uri == f.uri {
		tag = f.tag
	}
	body, newTag, err := f.get(ctx, doc.uri, tag)
	switch {
	case errors.Is(err, errNotModified):
		return document{unchanged: true}, nil
	case err != nil && f.source.URI == "":
		return document{}, fmt.Errorf("%s: %w", redacted(doc.uri), err)
	case err != nil:
		return document{}, err
	}
	keys, err := jwt.ParseKeys(body)
	if keys == nil {
		return document{}, fmt.Errorf("key set: %w", err)
	}
	if err != nil {
		doc.skipped = err.Error()
	}
	doc.keys, doc.tag = keys, newTag
	return doc, nil
}

// discover asks an issuer where its keys are.
func (f *follower) discover(ctx context.Context) (document, error) {
	issuer := strings.TrimSuffix(f.source.Issuer, "/")
	if u, err := url.Parse(issuer); err != nil || u.Host == "" {
		return document{}, errors.New("the issuer is not a URL; set jwksUri or jwks")
	}
	body, _, err := f.get(ctx, issuer+discovery, "")
	if err != nil {
		return document{}, err
	}
	var found struct {
		Issuer  string
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(body, &found); err != nil {
		return document{}, fmt.Errorf("the document is not one of OpenID Connect: %w", err)
	}
	if found.JWKSURI == "" {
		return document{}, errors.New("the document has no jwks_uri")
	}
	if strings.HasPrefix(issuer, "https:") && !strings.HasPrefix(found.JWKSURI, "https:") {
		return document{}, errInsecure
	}
	doc := document{uri: found.JWKSURI}
	if found.Issuer != f.source.Issuer {
		doc.issuer = found.Issuer // section 4.3 has us refuse it; Istio does not
	}
	return doc, nil
}

var (
	errNotModified = errors.New("not modified")
	errInsecure    = errors.New("leads from https to http")
)

// get returns what is at uri, and its entity tag; errNotModified if that is tag.
// Errors have nothing of what was said, nor the query.
func (f *follower) get(ctx context.Context, uri, tag string) (body []byte, newTag string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, "", errors.New("not a URL")
	}
	if req.URL.Scheme != "http" && req.URL.Scheme != "https" {
		return nil, "", fmt.Errorf("not http: or https: but %q", req.URL.Scheme)
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	if tag != "" {
		req.Header.Set("If-None-Match", tag)
	}
	resp, err := f.store.client.Do(req)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return nil, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	switch {
	case resp.StatusCode == http.StatusNotModified && tag != "":
		return nil, "", errNotModified
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return nil, "", fmt.Errorf("status %d", resp.StatusCode)
	}
	limit := f.store.o.MaxBytes
	body, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, "", fmt.Errorf("reading: %w", err)
	}
	if int64(len(body)) > limit {
		return nil, "", fmt.Errorf("more than %d bytes", limit)
	}
	return body, resp.Header.Get("ETag"), nil
}

// client returns the client for all sources. It keeps no connections: there are
// 20 minutes between two requests.
func client(o *Options) *http.Client {
	t := &http.Transport{
		DialContext:            o.Dial,
		TLSClientConfig:        &tls.Config{RootCAs: o.Roots, MinVersion: tls.VersionTLS12},
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: maxHeader,
	}
	if o.Dial == nil {
		t.Proxy = http.ProxyFromEnvironment
		t.DialContext = (&net.Dialer{Control: func(_, addr string, _ syscall.RawConn) error { return permitted(addr) }}).DialContext
	}
	return &http.Client{Transport: t, CheckRedirect: redirect}
}

func redirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("more than %d redirects", maxRedirects)
	case via[0].URL.Scheme == "https" && req.URL.Scheme != "https":
		return errInsecure
	}
	req.Header.Del("Referer") // where we were before is nobody's business
	return nil
}

// secretive are the addresses, besides link-local ones, where clouds tell a
// machine its secrets: Alibaba's and, over IPv6, Amazon's.
var secretive = []netip.Prefix{netip.MustParsePrefix("100.100.100.200/32"), netip.MustParsePrefix("fd00:ec2::/32")}

// permitted reports whether an address, which is about to be dialled, may be a
// source's. Private and loopback addresses may: issuers run in clusters.
func permitted(addr string) error {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	ip := ap.Addr().Unmap().WithZone("")
	if ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast() {
		return fmt.Errorf("%v is link-local, where no keys are fetched", ip)
	}
	for _, p := range secretive {
		if p.Contains(ip) {
			return fmt.Errorf("%v is a cloud's metadata service, where no keys are fetched", ip)
		}
	}
	return nil
}

// name names a source in logs.
func name(s jwt.Source) string {
	if s.URI == "" {
		return "issuer " + redacted(s.Issuer)
	}
	return redacted(s.URI)
}

// redacted returns a URI without a password, a query and a fragment.
func redacted(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return "(not a URL)"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}
