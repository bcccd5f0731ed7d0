package bench

import (
	"strconv"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// requests are what is asked, made once: the head of an HTTP/1.1 request, the
// fields of an HTTP/2 one, and what follows them on the wire.
type requests struct {
	head    l7.Request
	fields  l7.Fields
	content []byte
	crc     string // of what is sent, as the destination answers it
	size    int64  // of an answer
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
	r := requests{size: l.Size}
	r.head = l7.Request{Method: l.Method, Authority: l.Host, Path: l.Path, Fields: append(own, further...), Length: l.Send}
	return r
}

// A speaker makes a client for a stream, and what receives on it.
type speaker func(*tunnel, flow.Stream) (client, flow.Receiver)

// speakerOf returns the one for a protocol.
func speakerOf(protocol string) speaker {
	switch protocol {
	case speakRaw, speakConnect:
		return newRawClient
	}
	return newHTTPClient
}
