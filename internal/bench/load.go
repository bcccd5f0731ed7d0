package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// What Load's words may be.
const (
	overHBONE  = "hbone"
	overTCP    = "tcp"
	overSOCKS5 = "socks5"

	speakHTTP1      = "http1"
	speakGRPC       = "grpc"
	speakGRPCStream = "grpc-stream"
	speakWebSocket  = "websocket"
	speakRaw        = "raw"
	speakConnect    = "connect"

	arriveUniform = "uniform"
	arrivePoisson = "poisson"
)

var (
	transports = []string{overHBONE, overTCP, overSOCKS5}
	protocols  = []string{speakHTTP1, speakGRPC, speakGRPCStream, speakWebSocket, speakRaw, speakConnect}
	arrivals   = []string{arriveUniform, arrivePoisson}
)

// The most that a run may ask for.
const (
	maxConns       = 1000
	maxTunnels     = 10_000
	maxConcurrency = 1000
	maxLoops       = 64
	maxContent     = 1<<31 - 1 // 2 GiB less a byte
	maxSend        = 64 << 20  // 64 MiB: it is kept in memory, once
	maxRate        = 10e6
)

// A Load is what [Run] is to do: the flags of `waystone bench load`. The zero
// value of a field stands for what its comment has in brackets.
type Load struct {
	// Connect is the address and port where the proxy listens, or the
	// destination itself [127.0.0.1:15008].
	Connect string `json:"connect"`

	// Transport is hbone; tcp, which sends the same bytes straight to Connect;
	// or socks5, through a SOCKS5 proxy there, a node tunnel's [hbone].
	Transport string `json:"transport"`

	// Authority is the target of the CONNECT, or of the SOCKS5 request
	// [10.96.0.10:80].
	Authority string `json:"authority"`

	// Identity is where certificates come from, in one of [identity.Forms];
	// As, whose, as namespace/account [default/client]; TrustDomain, whose trust
	// domain [cluster.local]; and Peers, whose certificate the proxy may have, in
	// As's form. Identity and Peers are required for hbone and of no use to
	// others.
	Identity    string   `json:"identity,omitempty"`
	As          string   `json:"as,omitempty"`
	TrustDomain string   `json:"trustDomain,omitempty"`
	Peers       []string `json:"peers,omitempty"`

	// Protocol is http1, grpc (unary calls), grpc-stream (a request is a message
	// and its answer on a long-lived stream), websocket (likewise), raw (bytes
	// with lengths before them), or connect: a request is a connection of its
	// own, a CONNECT on it, one byte and its answer [http1].
	Protocol string `json:"protocol"`

	// Conns is how many connections carry Tunnels, as evenly as can be; no more
	// than there are tunnels. Without HBONE a tunnel is a connection [4].
	Conns int `json:"conns"`

	// Tunnels is how many there are in all; with connect, how many are opened at
	// a time [64].
	Tunnels int `json:"tunnels"`

	// Concurrency is how many exchanges a tunnel has at a time: streams of gRPC;
	// the other protocols have 1 [1].
	Concurrency int `json:"concurrency"`

	// Loops is how many loops, and so cores, the generator may use [1].
	Loops int `json:"loops"`

	// Rate is the requests per second in all; 0 is a closed loop. Arrival is how
	// they are spread: uniform, or poisson [uniform].
	Rate    float64 `json:"rate"`
	Arrival string  `json:"arrival"`

	// Method, Host and Path are the request's, and Headers further fields, each
	// "name: value" [GET, POST if there is content to send; items; /].
	Method  string   `json:"method"`
	Host    string   `json:"host"`
	Path    string   `json:"path"`
	Headers []string `json:"headers,omitempty"`

	// Size is how many bytes of content a response is to have, and Send, how many
	// a request has. With a Size the content is checked; without one the server
	// may send what it likes, except that raw and connect want a byte.
	Size int64 `json:"size"`
	Send int64 `json:"send"`

	// Duration is how long the measured part is [10s], and Warmup how long there
	// is load before it. Requests ends the measured part earlier, after so many.
	Duration time.Duration `json:"-"`
	Warmup   time.Duration `json:"-"`
	Requests int64         `json:"requests"`

	// ReadRate is how many bytes of content per second are read from a tunnel; 0
	// is as many as come.
	ReadRate int64 `json:"readRate"`

	// Hold makes one exchange on each tunnel, and then leaves all of them idle
	// for Duration.
	Hold bool `json:"hold"`

	// For tests: what Identity would open, and how to dial.
	source identity.Source
	dial   func(context.Context, netip.AddrPort) (net.Conn, error)
}

// times is how a Load's durations are written: "1.5s".
type times struct {
	Duration string `json:"duration"`
	Warmup   string `json:"warmup"`
}

// MarshalJSON writes durations as text.
func (l Load) MarshalJSON() ([]byte, error) {
	type fields Load
	return json.Marshal(struct {
		fields
		times
	}{fields(l), times{l.Duration.String(), l.Warmup.String()}})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (l *Load) UnmarshalJSON(p []byte) (err error) {
	type fields Load
	var t times
	if err := errors.Join(json.Unmarshal(p, (*fields)(l)), json.Unmarshal(p, &t)); err != nil {
		return err
	}
	if l.Duration, err = time.ParseDuration(t.Duration); err == nil {
		l.Warmup, err = time.ParseDuration(t.Warmup)
	}
	return err
}

// withDefaults returns l with what its zero values stand for.
func (l Load) withDefaults() Load {
	set(&l.Connect, "127.0.0.1:15008")
	set(&l.Transport, overHBONE)
	set(&l.Authority, "10.96.0.10:80")
	set(&l.As, "default/client")
	set(&l.TrustDomain, "cluster.local")
	set(&l.Protocol, speakHTTP1)
	set(&l.Conns, 4)
	set(&l.Tunnels, 64)
	set(&l.Concurrency, 1)
	set(&l.Loops, 1)
	set(&l.Arrival, arriveUniform)
	if l.Send > 0 {
		set(&l.Method, "POST")
	}
	set(&l.Method, "GET")
	set(&l.Host, "items")
	set(&l.Path, "/")
	set(&l.Duration, 10*time.Second)
	if l.Protocol == speakRaw || l.Protocol == speakConnect {
		set(&l.Size, 1)
	}
	l.Conns = min(l.Conns, l.Tunnels)
	l.Loops = min(l.Loops, l.Tunnels)
	if l.Transport == overHBONE && l.Protocol != speakConnect {
		l.Loops = min(l.Loops, l.Conns)
	}
	return l
}

func set[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// Check reports everything that Run would not accept, by the names of the flags.
func (l Load) Check() error {
	l = l.withDefaults()
	var errs []error
	bad := func(wrong bool, flag, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf("flag --"+flag+": "+format, args...))
		}
	}
	check := func(flag, text string, err error) { bad(err != nil, flag, "%q: %w", text, err) }
	oneOf := func(flag, text string, of []string) {
		for _, word := range of {
			if text == word {
				return
			}
		}
		bad(true, flag, "%q is none of %s", text, strings.Join(of, ", "))
	}
	within := func(flag string, n, low, high int64) {
		bad(n < low || n > high, flag, "%d is not %d to %d", n, low, high)
	}

	oneOf("transport", l.Transport, transports)
	oneOf("protocol", l.Protocol, protocols)
	oneOf("arrival", l.Arrival, arrivals)
	_, err := netip.ParseAddrPort(l.Connect)
	check("connect", l.Connect, because(err, "is not an IP address and a port"))
	_, err = mesh.ParseAuthority(l.Authority)
	check("authority", l.Authority, err)
	if l.Transport == overHBONE {
		bad(l.Identity == "" && l.source == nil, "identity", "is required for --transport hbone: %s", identity.Forms)
		bad(len(l.Peers) == 0, "peer", "is required for --transport hbone: whose certificate the proxy may have, as namespace/account")
		_, err = l.id(l.As)
		check("as", l.As, err)
		for _, p := range l.Peers {
			_, err = l.id(p)
			check("peer", p, err)
		}
	}
	within("conns", int64(l.Conns), 1, maxConns)
	within("tunnels", int64(l.Tunnels), 1, maxTunnels)
	within("concurrency", int64(l.Concurrency), 1, maxConcurrency)
	within("loops", int64(l.Loops), 1, maxLoops)
	within("size", l.Size, 0, maxContent)
	within("send", l.Send, 0, maxSend)
	bad(!(l.Rate >= 0 && l.Rate <= maxRate), "rate", "%v is not 0 to %.0f", l.Rate, maxRate)
	bad(l.Duration < 0, "duration", "%v is negative", l.Duration)
	bad(l.Warmup < 0, "warmup", "%v is negative", l.Warmup)
	bad(l.Requests < 0, "requests", "%d is negative", l.Requests)
	bad(l.ReadRate < 0, "read-rate", "%d is negative", l.ReadRate)

	streams := l.Protocol == speakGRPC || l.Protocol == speakGRPCStream
	bad(l.Concurrency > 1 && !streams, "concurrency", "a tunnel of --protocol %s has one exchange at a time", l.Protocol)
	if streams {
		within("size", l.Size, 0, maxMessage-64) // less what is around it
		within("send", l.Send, 0, maxMessage-64)
	}
	bad(l.Protocol == speakRaw && l.Size >= maxRaw, "size", "%d is not less than %d, which is the most that --protocol raw knows", l.Size, maxRaw)
	bad(l.Hold && l.Rate > 0, "hold", "leaves tunnels idle, so that there is no --rate")
	bad(l.Hold && l.Requests > 0, "hold", "makes one exchange on each tunnel, whatever --requests says")
	bad(l.Hold && l.Protocol == speakConnect, "hold", "--protocol connect leaves nothing open")
	bad(l.ReadRate > 0 && l.Protocol == speakConnect, "read-rate", "--protocol connect reads one byte")
	bad(l.Method == "GET" && l.Send > 0 && l.Protocol == speakHTTP1, "send", "a GET has no content: leave --method out, or give another")
	_, err = l.fields()
	bad(err != nil, "header", "%w", err)
	return errors.Join(errs...)
}

// because replaces a parser's error with one for whoever typed it.
func because(err error, reason string) error {
	if err != nil {
		err = errors.New(reason)
	}
	return err
}

// id reads namespace/account.
func (l *Load) id(s string) (identity.ID, error) {
	ns, account, ok := strings.Cut(s, "/")
	if !ok {
		return identity.ID{}, errors.New("is not of the form namespace/account")
	}
	id, err := identity.Parse("spiffe://" + l.TrustDomain + "/ns/" + ns + "/sa/" + account)
	return id, because(err, "is not of the form namespace/account, or --trust-domain is not one")
}

// fields reads Headers.
func (l *Load) fields() (l7.Fields, error) {
	var f l7.Fields
	for _, h := range l.Headers {
		name, value, ok := strings.Cut(h, ":")
		name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
		switch {
		case !ok || name == "" || strings.ContainsAny(name, " \t\r\n") || strings.ContainsAny(value, "\r\n\x00"):
			return nil, fmt.Errorf(`%q is not of the form "name: value"`, h)
		case name == "host" || name == "content-length" || name == "transfer-encoding" || name == "connection" || name == "upgrade":
			return nil, fmt.Errorf("%q: %s is written by the generator", h, name)
		}
		f = append(f, l7.Field{Name: name, Value: value})
	}
	return f, nil
}
