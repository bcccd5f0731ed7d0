package bench

import (
	"strconv"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// requests are what is asked, made once: the head of an HTTP/1.1 request or the
// fields of an HTTP/2 one, and the content that follows, as it goes on the wire.
type requests struct {
	head    l7.Request
	fields  l7.Fields
	content []byte
	crc     string // of what is sent, as the destination answers it
}

func newRequests(l *Load) requests {
	own := l7.Fields{{Name: "user-agent", Value: "waystone-bench"}, {Name: "accept", Value: "*/*"}}
	if l.Size > 0 {
		own = append(own, l7.Field{Name: sizeField, Value: strconv.FormatInt(l.Size, 10)})
	}
	further, _ := l.fields() // Check has read them
	for _, f := range further {
		own = own.Del(f.Name)
	}
	own = append(own, further...)
	r := requests{crc: crcText(contentCRC(l.Send))}
	r.head = l7.Request{Method: l.Method, Authority: l.Host, Path: l.Path, Fields: own, Length: l.Send}
	switch l.Protocol {
	case speakHTTP1:
		r.content = content(l.Send)
	case speakGRPC:
		r.call(l, unaryCall, own)
	case speakGRPCStream:
		r.call(l, streamingCall, own)
	case speakWebSocket:
		r.upgrade(l)
	default:
		r.content = append(appendRawHead(nil, l.Send, l.Size), content(l.Send)...)
	}
	return r
}

// A speaker makes a client for a stream, and what receives on it.
type speaker func(*tunnel, flow.Stream) (client, flow.Receiver)

// speakerOf returns the one for a protocol.
func speakerOf(protocol string) speaker {
	switch protocol {
	case speakHTTP1:
		return newHTTPClient
	case speakGRPC, speakGRPCStream:
		return newGRPCClient
	case speakWebSocket:
		return newWebSocketClient
	}
	return newRawClient
}
