//go:build !linux

package zds

import (
	"errors"
	"net"
)

func receive(*net.UnixConn) (message, error) {
	return message{}, errors.New("the CNI's protocol needs Linux")
}
