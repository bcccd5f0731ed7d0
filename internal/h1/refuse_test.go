package h1

import (
	"fmt"
	"strings"
	"testing"
)

func TestServerRefuses(t *testing.T) {
	post := "POST / HTTP/1.1\nHost: a\n"
	for _, c := range []struct {
		name   string
		in     string // of which a line end is \n
		status int
		err    *Error
	}{
		{"length and chunks", post + "Content-Length: 5\nTransfer-Encoding: chunked\n\n0\n\n", 400, errBoth},
		{"chunks and length", post + "Transfer-Encoding: chunked\nContent-Length: 5\n\n0\n\n", 400, errBoth},
		{"two lengths", post + "Content-Length: 5\nContent-Length: 6\n\nhello", 400, errLengths},
		{"two equal lengths", post + "Content-Length: 5\nContent-Length: 5\n\nhello", 400, errLengths},
		{"list of lengths", post + "Content-Length: 5, 5\n\nhello", 400, errLengthValue},
		{"empty length", post + "Content-Length:\n\nhello", 400, errLengthValue},
		{"length with sign", post + "Content-Length: +5\n\nhello", 400, errLengthValue},
		{"negative length", post + "Content-Length: -5\n\nhello", 400, errLengthValue},
		{"hexadecimal length", post + "Content-Length: 0x5\n\nhello", 400, errLengthValue},
		{"length overflows", post + "Content-Length: 9223372036854775808\n\nhello", 400, errLengthValue},
		{"coding gzip", post + "Transfer-Encoding: gzip\n\n", 400, errCoding},
		{"coding gzip, chunked", post + "Transfer-Encoding: gzip, chunked\n\n0\n\n", 501, errCodingUnknown},
		{"coding chunked, gzip", post + "Transfer-Encoding: chunked, gzip\n\n0\n\n", 400, errCoding},
		{"coding xchunked", post + "Transfer-Encoding: xchunked\n\n0\n\n", 400, errCoding},
		{"coding with a vertical tab", post + "Transfer-Encoding: \vchunked\n\n0\n\n", 400, errValue},
		{"empty coding", post + "Transfer-Encoding:\n\n", 400, errCoding},
		{"coding twice", post + "Transfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n0\n\n", 400, errCodings},
		{"coding in 1.0", "POST / HTTP/1.0\nHost: a\nTransfer-Encoding: chunked\n\n0\n\n", 400, errCoding10},
		{"space before the colon of a coding", post + "Transfer-Encoding : chunked\n\n0\n\n", 400, errSpace},
		{"folded field", post + "A: b\n c\n\n", 400, errFold},
		{"folded first field", "GET / HTTP/1.1\n Host: a\n\n", 400, errFold},
		{"field folded by a tab", post + "A: b\n\tc\n\n", 400, errFold},
		{"bare CR in a value", post + "A: b\rc\n\n", 400, errValue},
		{"NUL in a value", post + "A: b\x00c\n\n", 400, errValue},
		{"control in a value", post + "A: 0123456789\x01\n\n", 400, errValue},
		{"DEL in a value", post + "Aa: 01234567\x7f89\n\n", 400, errValue},
		{"space before the colon", post + "A : b\n\n", 400, errSpace},
		{"tab before the colon", post + "A\t: b\n\n", 400, errSpace},
		{"no name", post + ": b\n\n", 400, errName},
		{"no colon", post + "Abc\n\n", 400, errName},
		{"name is no token", post + "A(b): c\n\n", 400, errName},
		{"name has a high byte", post + "A\xe9: c\n\n", 400, errName},
		{"Connection is no list of tokens", post + "Connection: a b\n\n", 400, errOption},
		{"no Host", "GET / HTTP/1.1\nA: b\n\n", 400, errNoHost},
		{"no fields", "GET / HTTP/1.1\n\n", 400, errNoHost},
		{"no Host but an absolute target", "GET http://a/ HTTP/1.1\n\n", 400, errNoHost},
		{"two Hosts", "GET / HTTP/1.1\nHost: a\nHost: a\n\n", 400, errHosts},
		{"Host with a path", "GET / HTTP/1.1\nHost: a/b\n\n", 400, errHost},
		{"Host with a user", "GET / HTTP/1.1\nHost: u@a\n\n", 400, errHost},
		{"Host with a space", "GET / HTTP/1.1\nHost: a b\n\n", 400, errHost},
		{"Host with a bad port", "GET / HTTP/1.1\nHost: a:8x\n\n", 400, errHost},
		{"Host with two ports", "GET / HTTP/1.1\nHost: a:8:9\n\n", 400, errHost},
		{"Host with an open bracket", "GET / HTTP/1.1\nHost: [::1\n\n", 400, errHost},
		{"space in the target", "GET /a b HTTP/1.1\nHost: a\n\n", 400, errRequestLine},
		{"two spaces", "GET  / HTTP/1.1\nHost: a\n\n", 400, errRequestLine},
		{"space after the version", "GET / HTTP/1.1 \nHost: a\n\n", 400, errRequestLine},
		{"tab in the target", "GET /a\tb HTTP/1.1\nHost: a\n\n", 400, errTargetByte},
		{"fragment", "GET /a#b HTTP/1.1\nHost: a\n\n", 400, errTargetByte},
		{"high byte in the target", "GET /\xc3\xa9 HTTP/1.1\nHost: a\n\n", 400, errTargetByte},
		{"NUL in the target", "GET /\x00 HTTP/1.1\nHost: a\n\n", 400, errTargetByte},
		{"no version", "GET /\nHost: a\n\n", 400, errRequestLine},
		{"no target", "GET HTTP/1.1\nHost: a\n\n", 400, errRequestLine},
		{"no method", " / HTTP/1.1\nHost: a\n\n", 400, errRequestLine},
		{"method is no token", "G(T / HTTP/1.1\nHost: a\n\n", 400, errMethod},
		{"version in lower case", "GET / http/1.1\nHost: a\n\n", 400, errRequestLine},
		{"version 1.2", "GET / HTTP/1.2\nHost: a\n\n", 505, errVersion},
		{"version 2.0", "PRI * HTTP/2.0\n\nSM\n\n", 505, errVersion},
		{"version 0.9", "GET / HTTP/0.9\nHost: a\n\n", 505, errVersion},
		{"connect", "CONNECT a:80 HTTP/1.1\nHost: a\n\n", 501, errConnect},
		{"authority form", "GET a:80 HTTP/1.1\nHost: a\n\n", 400, errTargetForm},
		{"other scheme", "GET ftp://a/ HTTP/1.1\nHost: a\n\n", 400, errTargetForm},
		{"absolute form without a host", "GET http:///x HTTP/1.1\nHost: a\n\n", 400, errTargetForm},
		{"absolute form with a user", "GET http://u@a/ HTTP/1.1\nHost: a\n\n", 400, errTargetForm},
		{"relative target", "GET a/b HTTP/1.1\nHost: a\n\n", 400, errTargetForm},
		{"asterisk without OPTIONS", "GET * HTTP/1.1\nHost: a\n\n", 400, errAsterisk},
		{"two empty lines first", "\n\nGET / HTTP/1.1\nHost: a\n\n", 400, errBlank},
		{"target too long", "GET /" + strings.Repeat("a", 64) + " HTTP/1.1\nHost: a\n\n", 414, errTarget},
		{"request line too long", "GET /" + strings.Repeat("a", 300) + " HTTP/1.1\nHost: a\n\n", 414, errTarget},
		{"request line without end", "GET /" + strings.Repeat("a", 300), 414, errTarget},
		{"head too large", "GET / HTTP/1.1\nHost: a\nA: " + strings.Repeat("a", 300) + "\n\n", 431, errHead},
		{"head without end", "GET / HTTP/1.1\nHost: a\n" + strings.Repeat("Abcdefghijklmnopqrstuvwxyz: b\n", 8) + strings.Repeat("A", 80), 431, errHead},
		{"too many fields", "GET / HTTP/1.1\nHost: a\n" + strings.Repeat("A: b\n", 10) + "\n", 431, errFields},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := script{in: lines(c.in), limits: Limits{Head: 256, Target: 64, Fields: 10}}
			s.events = fmt.Sprintf("malformed %d %s\nclosed %s\n", c.status, c.err.Reason, c.err.Reason)
			s.out = refusal(c.status)
			if c.err.Status != c.status {
				t.Errorf("err.Status = %d, want %d", c.err.Status, c.status)
			}
			s.run(t)
		})
	}
}

func refusal(status int) string {
	return fmt.Sprintf("HTTP/1.1 %d %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", status, reason(status))
}

// A bare LF cannot be written with the lines of the tables.
func TestServerRefusesBareLF(t *testing.T) {
	for _, in := range []string{
		"GET / HTTP/1.1\nHost: a\n\n",
		"GET / HTTP/1.1\r\nHost: a\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\n\n",
		"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nA: b\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		s := script{in: in, events: "malformed 400 line ends without CR\nclosed line ends without CR\n", out: refusal(400)}
		s.run(t)
	}
}

func TestServerRefusesChunks(t *testing.T) {
	head := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, c := range []struct {
		name, in string
		err      *Error
	}{
		{"no digit", "\r\n", errChunkSize},
		{"no hexadecimal digit", "g\r\n", errChunkSize},
		{"0x", "0x5\r\nhello\r\n", errChunkSize},
		{"sign", "-1\r\n", errChunkSize},
		{"white space first", " 5\r\nhello\r\n", errChunkSize},
		{"white space after", "5 \r\nhello\r\n", errChunkSize},
		{"white space within", "5 5\r\nhello\r\n", errChunkSize},
		{"extension only", ";a\r\n", errChunkSize},
		{"underscore", "1_0\r\n", errChunkSize},
		{"too large", "1000000000000000\r\n", errChunkHuge},
		{"much too large", strings.Repeat("f", 40) + "\r\n", errChunkHuge},
		{"bare LF after the size", "5\nhello\r\n", errChunkSize},
		{"bare CR after the size", "5\rhello\r\n", errChunkByte},
		{"bare LF in an extension", "5;a\nhello\r\n", errChunkByte},
		{"NUL in an extension", "5;a\x00\r\nhello\r\n", errChunkByte},
		{"extension too long", "5;" + strings.Repeat("a", 100) + "\r\nhello\r\n", errChunkLine},
		{"too many zeros", strings.Repeat("0", 100) + "5\r\nhello\r\n", errChunkLine},
		{"too much white space", "5" + strings.Repeat(" ", 100) + ";\r\nhello\r\n", errChunkLine},
		{"trailers folded", "0\r\nA: b\r\n c\r\n\r\n", errFold},
		{"trailers with bare LF", "0\r\nA: b\n\r\n", errBareLF},
		{"trailer without colon", "0\r\nAb\r\n\r\n", errName},
		{"too many trailers", "0\r\n" + strings.Repeat("A: b\r\n", 11) + "\r\n", errFields},
		{"trailers too large", "0\r\nA: " + strings.Repeat("a", 300) + "\r\n\r\n", errHead},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := script{in: head + c.in, limits: Limits{Head: 256, Fields: 10, ChunkLine: 64}}
			s.events = "request POST a / length=-1 end=false HTTP/1.1\n" +
				fmt.Sprintf("reset %s\nclosed %s\n", c.err.Reason, c.err.Reason)
			s.out = refusal(c.err.Status)
			s.run(t)
		})
	}
	t.Run("data without CRLF", func(t *testing.T) {
		for _, tail := range []string{"hellox\r\n", "hello\n", "hello\rx"} {
			s := script{in: head + "5\r\n" + tail, out: refusal(400)}
			s.events = "request POST a / length=-1 end=false HTTP/1.1\ncontent \"hello\"\n" +
				fmt.Sprintf("reset %s\nclosed %s\n", errChunkEnd.Reason, errChunkEnd.Reason)
			s.run(t)
		}
	})
	t.Run("extensions without end", func(t *testing.T) {
		s := script{in: head + strings.Repeat("1;0123456789\r\nx\r\n", 30), limits: Limits{Head: 256}, out: refusal(400)}
		s.events = "request POST a / length=-1 end=false HTTP/1.1\n" +
			fmt.Sprintf("content %q\nreset %s\nclosed %s\n", strings.Repeat("x", 23), errChunkLine.Reason, errChunkLine.Reason)
		s.run(t)
	})
}
