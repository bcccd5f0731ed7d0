package zds

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/waystone-mesh/waystone/internal/netns"
	"github.com/waystone-mesh/waystone/internal/zds/zdsapi"
)

// A message is what the agent says.
type message struct {
	kind kind
	uid  string // of the pod, unless kind is snapshot
	pod  Pod    // if kind is add
}

type kind int

const (
	unknown kind = iota
	add
	keep
	del
	snapshot
)

// String returns the field of zdsapi.WorkloadRequest that it is.
func (k kind) String() string {
	return [...]string{"unknown", "add", "keep", "del", "snapshot_sent"}[k]
}

// A messageError says what is wrong with a message, which is answered with it.
type messageError struct{ reason string }

func (e *messageError) Error() string { return e.reason }

func malformed(format string, a ...any) error { return &messageError{fmt.Sprintf(format, a...)} }

// parse makes a message of the bytes and descriptors that came together. The
// descriptors are its own: what the message does not need is closed. Of a
// malformed message it returns what there is, without Netns.
func parse(b []byte, fds []int, closeFD func(int)) (message, error) {
	m, err := decode(b)
	if m.kind == add && err == nil && len(fds) == 1 {
		if m.pod.Netns, err = netns.FromFD(fds[0]); err != nil {
			err = malformed("add: %v", err)
		}
		return m, err
	}
	for _, fd := range fds {
		closeFD(fd)
	}
	switch {
	case err != nil:
	case m.kind == add:
		err = malformed("add: %d descriptors came along, want the one of the pod's network namespace", len(fds))
	case len(fds) > 0:
		err = malformed("%v: %d descriptors came along, want none", m.kind, len(fds))
	}
	return m, err
}

func decode(b []byte) (message, error) {
	var req zdsapi.WorkloadRequest
	if err := proto.Unmarshal(b, &req); err != nil {
		return message{}, malformed("not a WorkloadRequest: %v", err)
	}
	var m message
	switch p := req.Payload.(type) {
	case *zdsapi.WorkloadRequest_Add:
		m = message{kind: add, uid: p.Add.GetUid()}
		info := p.Add.GetWorkloadInfo()
		m.pod = Pod{UID: m.uid, Name: info.GetName(), Namespace: info.GetNamespace(), ServiceAccount: info.GetServiceAccount()}
		if info == nil {
			return m, malformed("add: workload_info is missing")
		}
	case *zdsapi.WorkloadRequest_Keep:
		m = message{kind: keep, uid: p.Keep.GetUid()}
	case *zdsapi.WorkloadRequest_Del:
		m = message{kind: del, uid: p.Del.GetUid()}
	case *zdsapi.WorkloadRequest_SnapshotSent:
		return message{kind: snapshot}, nil
	default:
		return message{}, malformed("none of the messages that are known: add, keep, del, snapshot_sent")
	}
	if m.uid == "" {
		return m, malformed("%v: uid is missing", m.kind)
	}
	return m, nil
}

// ack is the answer that says err, or success. The agent reads no more than
// maxMessage of it, and no text that is not UTF-8.
func ack(refused error) ([]byte, error) {
	const room = maxMessage - 16 // for the fields' tags and lengths
	var a zdsapi.Ack
	if refused != nil {
		text := strings.ToValidUTF8(refused.Error(), "?")
		a.Error = strings.ToValidUTF8(text[:min(len(text), room)], "")
	}
	return proto.Marshal(&zdsapi.WorkloadResponse{Payload: &zdsapi.WorkloadResponse_Ack{Ack: &a}})
}
