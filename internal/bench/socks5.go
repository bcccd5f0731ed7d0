package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// socks5 asks the SOCKS5 proxy at the other end of nc (RFC 1928), without
// authentication, for a connection to a destination. It blocks until ctx is done
// at the latest, which is when nc is of no more use.
func socks5(ctx context.Context, nc net.Conn, to mesh.Authority) error {
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	// Version 5, one method: none. CONNECT, as an address or a name.
	ask := []byte{5, 1, 0, 5, 1, 0}
	switch {
	case to.Host != "":
		ask = append(append(ask, 3, byte(len(to.Host))), to.Host...)
	case to.IP.Is4():
		ask = append(append(ask, 1), to.IP.AsSlice()...)
	default:
		ask = append(append(ask, 4), to.IP.AsSlice()...)
	}
	ask = binary.BigEndian.AppendUint16(ask, to.Port)
	if _, err := nc.Write(ask); err != nil { // both at once: it can only refuse
		return fmt.Errorf("socks5: %w", err)
	}
	var answer [6]byte // of each question, and of the second the length of a name
	if err := read(nc, answer[:2]); err != nil {
		return err
	}
	if answer[0] != 5 || answer[1] != 0 {
		return fault("socks5: no method")
	}
	if err := read(nc, answer[:5]); err != nil {
		return err
	}
	if answer[1] != 0 {
		return fault("socks5: reply " + strconv.Itoa(int(answer[1])))
	}
	// The address that the proxy dialled from, of which one byte was read.
	rest := map[byte]int{1: 4 + 2 - 1, 3: int(answer[4]) + 2, 4: 16 + 2 - 1}[answer[3]]
	if rest == 0 {
		return fault(kindMalformed)
	}
	return read(nc, make([]byte, rest))
}

func read(nc net.Conn, p []byte) error {
	if _, err := io.ReadFull(nc, p); err != nil {
		return fmt.Errorf("socks5: %w", err)
	}
	return nil
}
