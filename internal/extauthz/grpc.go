package extauthz

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// maxCheck is the longest answer that is read, four times the longest body that is
// passed on: 256 KiB.
const maxCheck = 4 * maxAnswer

// How a connection that failed is made again: soon, for the next dial goes to
// another endpoint; and not only after the two minutes that gRPC waits for at
// last.
var connectParams = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 500 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
	MinConnectTimeout: 15 * time.Second, // several endpoints are tried
}

// lanes is how many connections a provider is asked on, by turns: as many of its
// endpoints share the questions, if there are so many.
const lanes = 4

// overGRPC asks by envoy.service.auth.v3.Authorization/Check.
func overGRPC(p *authz.Provider, dial func(context.Context) (net.Conn, error)) (ask func(context.Context, *Request) (Answer, error), end func(), err error) {
	var conns [lanes]*grpc.ClientConn
	for i := range conns {
		conns[i], err = grpc.NewClient("passthrough:///"+hostOf(p.Service),
			grpc.WithTransportCredentials(insecure.NewCredentials()), // the mesh protects what is dialled
			grpc.WithConnectParams(connectParams), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxCheck)),
			grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
		if err != nil { // of the target, and so of the first
			return nil, nil, err
		}
	}
	var turn atomic.Uint32
	ask = func(ctx context.Context, r *Request) (Answer, error) {
		resp, err := check(ctx, &conns, turn.Add(1), &authv3.CheckRequest{Attributes: Attributes(p, r)})
		if err != nil {
			return Answer{}, err
		}
		return fromCheck(resp)
	}
	end = func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}
	return ask, end, nil
}

// check asks on one connection, and on the next if that one leads nowhere: what
// is asked may be asked twice.
func check(ctx context.Context, conns *[lanes]*grpc.ClientConn, turn uint32, r *authv3.CheckRequest) (resp *authv3.CheckResponse, err error) {
	for i := range uint32(2) {
		resp, err = authv3.NewAuthorizationClient(conns[(turn+i)%lanes]).Check(ctx, r)
		if status.Code(err) != codes.Unavailable || ctx.Err() != nil {
			break
		}
	}
	return resp, err
}

// hostOf returns the host name of [namespace/]host.
func hostOf(service string) string { return service[strings.IndexByte(service, '/')+1:] }

// fromCheck reads an answer. An error response is no answer.
//
// A header that does not say what is to become of others of its name takes their
// place in the request, as the message's documentation has it: an authorizer that
// says who the client is must not only add to what the client says. Further ones
// of the same name are added to the first. In a response, where it may be one of
// several cookies, it is added.
func fromCheck(resp *authv3.CheckResponse) (Answer, error) {
	if e := resp.GetErrorResponse(); e != nil {
		return Answer{}, fmt.Errorf("it answered that it failed, with status %d", e.GetStatus().GetCode())
	}
	if codes.Code(resp.GetStatus().GetCode()) != codes.OK {
		d := resp.GetDeniedResponse()
		a := Answer{Status: int(d.GetStatus().GetCode()), Body: []byte(d.GetBody())}
		a.Body = a.Body[:min(len(a.Body), maxAnswer)]
		if a.Status < 200 || a.Status > 599 {
			a.Status = http.StatusForbidden
		}
		for _, e := range valid(edits(d.GetHeaders(), Append)) {
			a.Fields = append(a.Fields, l7.Field{Name: e.Name, Value: e.Value})
		}
		return a, nil
	}
	ok := resp.GetOkResponse()
	a := Answer{Allowed: true, Edits: edits(ok.GetHeaders(), Set), Response: valid(edits(ok.GetResponseHeadersToAdd(), Append))}
	for _, name := range ok.GetHeadersToRemove() {
		a.Edits = append(a.Edits, Edit{Action: Remove, Name: strings.ToLower(name)})
	}
	a.Edits = valid(a.Edits)
	for _, q := range ok.GetQueryParametersToSet() {
		a.SetQuery = append(a.SetQuery, Parameter{q.GetKey(), q.GetValue()})
	}
	a.RemoveQuery = ok.GetQueryParametersToRemove()
	return a, nil
}

// edits reads header mutations, of which those that do not say do what usual
// says.
func edits(options []*corev3.HeaderValueOption, usual Action) []Edit {
	var all []Edit
	for _, o := range options {
		e := Edit{Name: strings.ToLower(o.GetHeader().GetKey()), Value: o.GetHeader().GetValue()}
		if raw := o.GetHeader().GetRawValue(); len(raw) > 0 {
			e.Value = string(raw)
		}
		switch appends := o.GetAppend(); { //nolint:staticcheck // deprecated in Envoy, in use by authorizers
		case appends != nil && appends.GetValue():
			e.Action = Append
		case appends != nil, o.GetAppendAction() == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD:
			e.Action = Set
		case o.GetAppendAction() == corev3.HeaderValueOption_ADD_IF_ABSENT:
			e.Action = AddIfAbsent
		case o.GetAppendAction() == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
			e.Action = SetIfPresent
		case slices.ContainsFunc(all, func(before Edit) bool { return before.Name == e.Name }):
			e.Action = Append
		default: // nothing, or the APPEND_IF_EXISTS_OR_ADD that cannot be told from it
			e.Action = usual
		}
		all = append(all, e)
	}
	return all
}
