package extauthz

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// partialBody says whether the content that an authorizer sees is all of it.
const partialBody = "x-envoy-auth-partial-body"

// overGRPC asks by envoy.service.auth.v3.Authorization/Check.
func overGRPC(p *authz.Provider, dial func(context.Context) (net.Conn, error)) (ask func(context.Context, *Request) (Answer, error), end func(), err error) {
	conn, err := grpc.NewClient("passthrough:///"+hostOf(p.Service),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the mesh protects what is dialled
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
	if err != nil {
		return nil, nil, err
	}
	client := authv3.NewAuthorizationClient(conn)
	ask = func(ctx context.Context, r *Request) (Answer, error) {
		resp, err := client.Check(ctx, &authv3.CheckRequest{Attributes: Attributes(p, r)})
		if err != nil {
			return Answer{}, err
		}
		return fromCheck(resp)
	}
	return ask, func() { _ = conn.Close() }, nil
}

// hostOf returns the host name of [namespace/]host.
func hostOf(service string) string { return service[strings.IndexByte(service, '/')+1:] }

// Attributes writes a request as the protocol has it. Of a connection that is not
// HTTP it has the two ends.
func Attributes(p *authz.Provider, r *Request) *authv3.AttributeContext {
	a := &authv3.AttributeContext{Source: peer(r.Source, r.Peer), Destination: peer(r.Dest, r.Self)}
	if r.Head == nil {
		return a
	}
	h := &authv3.AttributeContext_HttpRequest{
		Id: r.Head.Fields.Get("x-request-id"), Method: r.Head.Method, Path: r.Head.Path, Host: r.Head.Authority, Scheme: r.Head.Scheme,
		Size: r.Head.Length, Protocol: r.Head.Protocol.String(), Headers: headers(r.Head),
	}
	if p.Body != nil {
		h.Headers[partialBody] = fmt.Sprint(r.Partial)
		if p.Body.AsBytes {
			h.RawBody = r.Content
		} else {
			h.Body = strings.ToValidUTF8(string(r.Content), "!")
		}
	}
	a.Request = &authv3.AttributeContext_Request{Time: timestamppb.New(r.At), Http: h}
	return a
}

// headers are all fields of a request, with Envoy's names for its first line.
// Those that are repeated are one, and bytes that are not UTF-8 are replaced, as
// the protocol demands.
func headers(r *l7.Request) map[string]string {
	all := map[string]string{":method": r.Method, ":path": r.Path, ":authority": r.Authority, ":scheme": r.Scheme}
	for _, f := range r.Fields {
		if _, seen := all[f.Name]; !seen {
			v, _ := r.Fields.Joined(f.Name)
			all[f.Name] = strings.ToValidUTF8(v, "!")
		}
	}
	return all
}

func peer(at netip.AddrPort, id identity.ID) *authv3.AttributeContext_Peer {
	p := &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: at.Addr().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(at.Port())},
	}}}}
	if !id.IsZero() {
		p.Principal = id.String()
	}
	return p
}

// fromCheck reads an answer. An error response is no answer.
func fromCheck(resp *authv3.CheckResponse) (Answer, error) {
	if e := resp.GetErrorResponse(); e != nil {
		return Answer{}, fmt.Errorf("it answered that it failed, with status %d", e.GetStatus().GetCode())
	}
	if codes.Code(resp.GetStatus().GetCode()) != codes.OK {
		d := resp.GetDeniedResponse()
		a := Answer{Status: int(d.GetStatus().GetCode()), Body: []byte(d.GetBody())}
		if a.Status < 200 || a.Status > 599 {
			a.Status = http.StatusForbidden
		}
		for _, e := range edits(d.GetHeaders()) {
			if !ofConnection(e.Name) {
				a.Fields = Apply(a.Fields, []Edit{e})
			}
		}
		return a, nil
	}
	ok := resp.GetOkResponse()
	a := Answer{Allowed: true, Edits: edits(ok.GetHeaders()), Response: edits(ok.GetResponseHeadersToAdd())}
	for _, name := range ok.GetHeadersToRemove() {
		a.Edits = append(a.Edits, Edit{Action: Remove, Name: strings.ToLower(name)})
	}
	a.Edits, a.Response = slices.DeleteFunc(a.Edits, forbidden), slices.DeleteFunc(a.Response, forbidden)
	for _, q := range ok.GetQueryParametersToSet() {
		a.SetQuery = append(a.SetQuery, Parameter{q.GetKey(), q.GetValue()})
	}
	a.RemoveQuery = ok.GetQueryParametersToRemove()
	return a, nil
}

// edits reads header mutations. In this message a header is set unless it says
// append.
func edits(options []*corev3.HeaderValueOption) []Edit {
	var all []Edit
	for _, o := range options {
		e := Edit{Name: strings.ToLower(o.GetHeader().GetKey()), Value: o.GetHeader().GetValue()}
		if raw := o.GetHeader().GetRawValue(); len(raw) > 0 {
			e.Value = string(raw)
		}
		switch {
		case o.GetAppend() != nil: //nolint:staticcheck // deprecated in Envoy, in use by authorizers
			if o.GetAppend().GetValue() { //nolint:staticcheck // likewise
				e.Action = Append
			}
		case o.GetAppendAction() == corev3.HeaderValueOption_ADD_IF_ABSENT:
			e.Action = AddIfAbsent
		case o.GetAppendAction() == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
			e.Action = SetIfPresent
		}
		all = append(all, e)
	}
	return all
}

// forbidden reports whether an edit is not an authorizer's to make: of the first
// line, or of what belongs to the connection.
func forbidden(e Edit) bool {
	return e.Name == "" || e.Name[0] == ':' || e.Name == "host" || ofConnection(e.Name) || !writable(e)
}

// ofConnection reports whether a field belongs to the connection, or to framing.
func ofConnection(name string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "content-length":
		return true
	}
	return false
}

// Valid reports whether e is an authorizer's to make, and can be written: it is
// not of the first line, nor of what belongs to the connection.
func (e Edit) Valid() bool { return !forbidden(e) }

// writable reports whether an edit can be written.
func writable(e Edit) bool {
	return !strings.ContainsAny(e.Name, " \t\r\n\x00:") && !strings.ContainsAny(e.Value, "\r\n\x00")
}
