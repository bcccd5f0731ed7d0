package h1

import (
	"strings"
	"testing"
)

func TestValidValue(t *testing.T) {
	for n := range 40 {
		for i := range n {
			for c := range 256 {
				v := []byte(strings.Repeat("\xfe\t ~", 10)[:n])
				v[i] = byte(c)
				want := c >= 0x20 && c != 0x7f || c == '\t'
				if got := validValue(v); got != want {
					t.Fatalf("validValue(%q) = %v, want %v", v, got, want)
				}
			}
		}
	}
}

func TestValidAuthority(t *testing.T) {
	for s, want := range map[string]bool{
		"": true, "a": true, "a.b-c_d": true, "a:80": true, "a:": true, "10.0.0.1:8080": true, "[::1]": true, "[::1]:80": true, "[fe80::1%25eth0]:1": true,
		"a:80:80": false, "a:x": false, "a:123456": false, "[::1": false, "[]": false, "[::1]x": false, "[::1]80": false, "::1": false,
		"a/b": false, "a?b": false, "a#b": false, "u@a": false, "a b": false, "a\tb": false, "a\x00": false, "\xc3\xa9": false, "[a[b]": false, "a\\b": false,
	} {
		if got := validAuthority(s); got != want {
			t.Errorf("validAuthority(%q) = %v, want %v", s, got, want)
		}
	}
}

func TestHasToken(t *testing.T) {
	for s, want := range map[string]bool{
		"trailers": true, "gzip, Trailers;q=0.5": true, ",,trailers": true,
		"": false, "trailer": false, "xtrailers": false, "gzip;trailers": false,
	} {
		if got := hasToken([]byte(s), "trailers"); got != want {
			t.Errorf("hasToken(%q) = %v, want %v", s, got, want)
		}
	}
}
