package extauthz

import (
	"net/netip"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// partialBody says whether the content that an authorizer sees is all of it.
const partialBody = "x-envoy-auth-partial-body"

// Attributes writes a request as the protocol has it. Of a connection that is not
// HTTP it has the two ends.
func Attributes(p *authz.Provider, r *Request) *authv3.AttributeContext {
	a := &authv3.AttributeContext{Source: peer(r.Source, r.Peer), Destination: peer(r.Dest, r.Self)}
	if r.Head == nil {
		return a
	}
	h := &authv3.AttributeContext_HttpRequest{
		Id: r.Head.Fields.Get("x-request-id"), Method: r.Head.Method, Path: r.Head.Path, Host: r.Head.Authority, Scheme: r.Head.Scheme,
		Size: r.Head.Length, Protocol: r.Head.Protocol.String(), Headers: map[string]string{},
	}
	for _, f := range Headers(p, r) {
		h.Headers[f.Name] = f.Value
	}
	switch {
	case p.Body == nil:
	case p.Body.AsBytes:
		h.RawBody = r.Content
	default:
		h.Body = Text(string(r.Content))
	}
	a.Request = &authv3.AttributeContext_Request{Time: timestamppb.New(r.At), Http: h}
	return a
}

// Headers are all fields of a request that is not nil, with Envoy's names for its
// first line. Those that are repeated are one, and bytes that are not UTF-8 are
// replaced, as the protocol demands.
func Headers(p *authz.Provider, r *Request) l7.Fields {
	h := r.Head
	all := make(l7.Fields, 0, len(h.Fields)+7)
	add := func(name, value string) { all = append(all, l7.Field{Name: name, Value: Text(value)}) }
	add(":method", h.Method)
	add(":path", h.Path)
	add(":authority", h.Authority)
	add(":scheme", h.Scheme)
	for _, f := range h.Fields {
		if !all.Has(f.Name) {
			v, _ := h.Fields.Joined(f.Name)
			add(f.Name, v)
		}
	}
	if h.Upgrade != "" && !all.Has("upgrade") {
		add("upgrade", h.Upgrade)
	}
	if h.Length > 0 && !all.Has("content-length") {
		add("content-length", strconv.FormatInt(h.Length, 10))
	}
	if p.Body != nil {
		all = all.Set(partialBody, strconv.FormatBool(r.Partial))
	}
	return all
}

// Text returns s as it is in the protocol: UTF-8.
func Text(s string) string { return strings.ToValidUTF8(s, "!") }

func peer(at netip.AddrPort, id identity.ID) *authv3.AttributeContext_Peer {
	p := &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: at.Addr().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(at.Port())},
	}}}}
	if !id.IsZero() {
		p.Principal = id.String()
	}
	return p
}
