package loop

import (
	"syscall"
	"time"
	"unsafe"
)

// tcpInfo is the beginning of struct tcp_info (linux/tcp.h), which kernels only
// ever add to.
type tcpInfo struct {
	_            [8]uint8
	_            [6]uint32
	lost         uint32 // segments taken for lost now
	_            [8]uint32
	rtt          uint32 // µs, smoothed
	_            [7]uint32
	totalRetrans uint32 // segments
	_            [4]uint64
	_            [3]uint32
	minRTT       uint32 // µs
	_            [2]uint32
	_            [4]uint64
	_            [2]uint32
	_            [2]uint64
	dsackDups    uint32 // retransmitted segments that the peer had already
}

func (w *fdWire) tcpInfo() (TCPInfo, bool) {
	if w.closed {
		return TCPInfo{}, false
	}
	var i tcpInfo // of an older kernel what it does not have stays zero
	size := uint32(unsafe.Sizeof(i))
	_, _, errno := syscall.RawSyscall6(syscall.SYS_GETSOCKOPT, uintptr(w.fd), syscall.IPPROTO_TCP, syscall.TCP_INFO,
		uintptr(unsafe.Pointer(&i)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 { // not TCP
		return TCPInfo{}, false
	}
	return TCPInfo{
		RTT: time.Duration(i.rtt) * time.Microsecond, MinRTT: minRTT(i.minRTT),
		Retransmitted: i.totalRetrans, Lost: i.lost + i.totalRetrans - min(i.totalRetrans, i.dsackDups),
	}, true
}

// minRTT is 0 for what stands for "never measured".
func minRTT(micros uint32) time.Duration {
	if micros == ^uint32(0) {
		return 0
	}
	return time.Duration(micros) * time.Microsecond
}
