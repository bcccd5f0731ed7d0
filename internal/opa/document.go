package opa

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/identity"
)

// document writes what a policy sees of r, as OPA's plugin for Envoy does: the
// attributes of a check by their names in JSON, those that are not set left out,
// and the path, the query and the content taken apart. There is no document of a
// request whose path or content is not what it says it is.
//
// It says what extauthz.Attributes says, which a test holds it to. To make it of
// that message was simpler, and half of what a simple decision costs.
func document(p *authz.Provider, r *extauthz.Request) (ast.Value, error) {
	path, query, err := parsedTarget(r)
	if err != nil {
		return nil, err
	}
	body, truncated, err := parsedBody(r)
	if err != nil {
		return nil, err
	}
	attributes := ast.NewObject(item("source", peer(r.Source, r.Peer)), item("destination", peer(r.Dest, r.Self)))
	if r.Head != nil {
		attributes.Insert(term("request"), ast.NewTerm(request(p, r)))
	}
	doc := ast.NewObject(
		item("attributes", attributes),
		item("parsed_path", path), item("parsed_query", query),
		item("parsed_body", body), item("truncated_body", ast.Boolean(truncated)),
		item("version", version),
	)
	put(doc, "source_principal", principal(r.Peer))
	return doc, nil
}

// version says which protocol the document is of.
var version = ast.NewObject(item("ext_authz", ast.String("v3")), item("encoding", ast.String("protojson")))

// terms are the names that are in every document.
var terms = func() map[string]*ast.Term {
	all := map[string]*ast.Term{}
	for _, name := range []string{
		"attributes", "source", "destination", "request", "address", "socketAddress", "portValue", "principal", "source_principal",
		"time", "seconds", "nanos", "http", "id", "method", "path", "host", "scheme", "size", "protocol", "headers", "body", "rawBody",
		"parsed_path", "parsed_query", "parsed_body", "truncated_body", "version", ":method", ":path", ":authority", ":scheme",
		"authorization", "content-type", "user-agent", "x-request-id", "accept", "traceparent",
	} {
		all[name] = ast.StringTerm(name)
	}
	return all
}()

// term returns a name as a key.
func term(name string) *ast.Term {
	if t := terms[name]; t != nil {
		return t
	}
	return ast.StringTerm(name)
}

func item(name string, v ast.Value) [2]*ast.Term { return [2]*ast.Term{term(name), ast.NewTerm(v)} }

// put sets what is there.
func put(o ast.Object, name, value string) {
	if value != "" {
		o.Insert(term(name), ast.StringTerm(value))
	}
}

func putNumber(o ast.Object, name string, n int64) {
	if n != 0 {
		o.Insert(term(name), ast.NewTerm(numberOf(n)))
	}
}

func numberOf(n int64) ast.Value { return ast.Number(strconv.FormatInt(n, 10)) }

func principal(id identity.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

func peer(at netip.AddrPort, id identity.ID) ast.Value {
	socket := ast.NewObject(item("address", ast.String(at.Addr().String())), item("portValue", numberOf(int64(at.Port()))))
	p := ast.NewObject(item("address", ast.NewObject(item("socketAddress", socket))))
	put(p, "principal", principal(id))
	return p
}

func request(p *authz.Provider, r *extauthz.Request) ast.Value {
	at, http, headers := ast.NewObject(), ast.NewObject(), ast.NewObject()
	putNumber(at, "seconds", r.At.Unix())
	putNumber(at, "nanos", int64(r.At.Nanosecond()))
	for _, f := range extauthz.Headers(p, r) {
		headers.Insert(term(f.Name), ast.StringTerm(f.Value))
	}
	put(http, "id", r.Head.Fields.Get("x-request-id"))
	put(http, "method", r.Head.Method)
	put(http, "path", r.Head.Path)
	put(http, "host", r.Head.Authority)
	put(http, "scheme", r.Head.Scheme)
	putNumber(http, "size", r.Head.Length)
	put(http, "protocol", r.Head.Protocol.String())
	http.Insert(term("headers"), ast.NewTerm(headers))
	if p.Body != nil && p.Body.AsBytes {
		put(http, "rawBody", base64.StdEncoding.EncodeToString(r.Content))
	} else if p.Body != nil {
		put(http, "body", extauthz.Text(string(r.Content)))
	}
	return ast.NewObject(item("time", at), item("http", http))
}

// parsedTarget cuts a target into the segments of its path, decoded, and the
// values of its query.
func parsedTarget(r *extauthz.Request) (path, query ast.Value, err error) {
	target := ""
	if r.Head != nil {
		target = r.Head.Path
	}
	rawPath, rawQuery, _ := strings.Cut(target, "?")
	decoded, err := url.PathUnescape(rawPath)
	if err != nil {
		return nil, nil, errors.New("the path is not well encoded")
	}
	var segments []*ast.Term
	for s := range strings.SplitSeq(strings.TrimLeft(decoded, "/"), "/") {
		segments = append(segments, ast.StringTerm(s))
	}
	values, err := url.ParseQuery(rawQuery)
	if err != nil {
		return nil, nil, errors.New("the query is not well encoded")
	}
	return ast.NewArray(segments...), valuesOf(values), nil
}

func valuesOf(values url.Values) ast.Value {
	doc := ast.NewObject()
	for name, list := range values {
		items := make([]*ast.Term, len(list))
		for i, v := range list {
			items[i] = ast.StringTerm(v)
		}
		doc.Insert(ast.StringTerm(name), ast.NewTerm(ast.NewArray(items...)))
	}
	return doc
}

// parsedBody reads content that says it is JSON or a form; null is anything else,
// and content of which there is more. Of content that is in protobuf nothing is
// read: there are no descriptors.
func parsedBody(r *extauthz.Request) (body ast.Value, truncated bool, err error) {
	if r.Head == nil {
		return ast.Null{}, false, nil
	}
	kind := r.Head.Fields.Get("content-type")
	switch {
	case r.Partial:
		return ast.Null{}, true, nil
	case len(r.Content) == 0:
		return ast.Null{}, false, nil
	case r.Head.Length > int64(len(r.Content)):
		return ast.Null{}, true, nil
	case strings.Contains(kind, "application/json"):
		body, err = jsonValue(r.Content)
	case strings.Contains(kind, "application/x-www-form-urlencoded"):
		values, failed := url.ParseQuery(string(r.Content))
		body, err = valuesOf(values), failed
	case strings.Contains(kind, "multipart/form-data"):
		body, err = partsOf(string(r.Content), kind)
	default:
		body = ast.Null{}
	}
	if err != nil {
		return nil, false, errors.New("the content is not of the type that it says it is")
	}
	return body, false, nil
}

func jsonValue(text []byte) (ast.Value, error) {
	var v any
	if err := util.UnmarshalJSON(text, &v); err != nil {
		return nil, err
	}
	return ast.InterfaceToValue(v)
}

// partsOf reads the parts of a form by their names. A part without one is left
// out.
func partsOf(content, kind string) (ast.Value, error) {
	_, parameters, err := mime.ParseMediaType(kind)
	if err != nil {
		return nil, err
	}
	boundary, ok := parameters["boundary"]
	if !ok {
		return ast.Null{}, nil
	}
	parts := map[string][]*ast.Term{}
	for reader := multipart.NewReader(strings.NewReader(content), boundary); ; {
		part, err := reader.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if part.FormName() == "" {
			continue
		}
		text, err := io.ReadAll(part)
		if err != nil {
			return nil, err
		}
		var v ast.Value = ast.String(text)
		if strings.Contains(part.Header.Get("Content-Type"), "application/json") {
			if v, err = jsonValue(text); err != nil {
				return nil, fmt.Errorf("part %q: %w", part.FormName(), err)
			}
		}
		parts[part.FormName()] = append(parts[part.FormName()], ast.NewTerm(v))
	}
	doc := ast.NewObject()
	for name, list := range parts {
		doc.Insert(ast.StringTerm(name), ast.NewTerm(ast.NewArray(list...)))
	}
	return doc, nil
}
