package h1

import (
	"encoding/binary"
	"unsafe"
)

// lower is the lower case of a byte that may be in a token, and 0 of one that
// may not (RFC 9110, section 5.6.2).
var lower = func() (t [256]byte) {
	for c := byte('0'); c <= '9'; c++ {
		t[c] = c
	}
	for c := byte('a'); c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = c, c
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~") {
		t[c] = c
	}
	return t
}()

// validValue reports whether v has no control byte but tabs. Eight bytes at a
// time, the last eight twice if need be: most of a head is values.
func validValue(v []byte) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	if len(v) < 8 {
		return plain(v)
	}
	for i := 0; ; i += 8 {
		i = min(i, len(v)-8)
		x := binary.LittleEndian.Uint64(v[i:])
		// A byte below 0x20, or 0x7f, sets a top bit; so may its neighbour, and
		// then the slow loop decides.
		del := x ^ ones*0x7f
		if ((x-ones*0x20)&^x|(del-ones)&^del)&tops != 0 && !plain(v[i:i+8]) {
			return false
		}
		if i == len(v)-8 {
			return true
		}
	}
}

func plain(v []byte) bool {
	for _, c := range v {
		if c < 0x20 && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// equalFold reports whether b is the token, which is lower case.
func equalFold(b []byte, token string) bool {
	if len(b) != len(token) {
		return false
	}
	for i, c := range b {
		if lower[c] != token[i] {
			return false
		}
	}
	return true
}

// view returns b as a string without copying: valid as long as b is.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// bytesOf is the way back, for reading only.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
