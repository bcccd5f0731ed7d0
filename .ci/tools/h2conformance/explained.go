package main

// An HBONE listener takes CONNECT and nothing else. It answers any other method
// from its head alone: 404 without content, and RST_STREAM with NO_ERROR if the
// request has not ended (RFC 9113, section 8.1). The stream is then closed, and
// of what a case goes on to do there nothing can be seen. The same cases are to
// pass where their requests are made CONNECTs, and inside tunnels.
const (
	noContent    = "not applicable: the 404 that answers a GET has no content, and the case waits for DATA"
	closedAtOnce = "not applicable: the 404 that answers the head has closed the stream, and frames that were on their way then are ignored (RFC 9113, section 5.1)"
)

// explainedHBONE is why a case may fail against the HBONE listener, or be left
// out by h2spec, by the id that it has there.
var explainedHBONE = map[string]string{
	"generic/2/2":     noContent,
	"generic/2/3":     noContent,
	"http2/6.5.3/1":   noContent,
	"http2/6.9.1/1":   noContent,
	"http2/6.9.2/1":   noContent,
	"http2/6.9.2/2":   noContent,
	"http2/5.1/8":     closedAtOnce,
	"http2/5.1/9":     closedAtOnce,
	"http2/6.9/2":     closedAtOnce,
	"http2/6.9.1/3":   closedAtOnce,
	"http2/8.1/1":     closedAtOnce,
	"http2/8.1.2.1/3": closedAtOnce,
	"http2/8.1.2.6/1": closedAtOnce,
	"http2/8.1.2.6/2": closedAtOnce,
	"http2/5.1.2/1":   "not applicable: a request that is answered from its head is over at once, so that the limit of concurrent streams is never reached",
}

// explainedConnect is the same when requests have been made CONNECTs.
var explainedConnect = map[string]string{
	"generic/4/4":     "not applicable: a CONNECT has no trailers; HEADERS on its stream are a stream error (RFC 9113, section 8.5)",
	"http2/8.1.2.6/1": contentLength,
	"http2/8.1.2.6/2": contentLength,
}

const contentLength = "not applicable: what follows a CONNECT is a tunnel and not content, of which content-length says nothing (RFC 9110, section 9.3.6)"

// explainedInner is the same of the server inside tunnels.
var explainedInner = map[string]string{
	"http2/3.5/2": "not applicable: in a tunnel to a port of undeclared protocol, what is not HTTP/2's preface belongs to another protocol and goes to the destination; its answer is what the case saw",
}
