package waypoint

import (
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
)

// hello returns what a client says that means a server.
func hello(t testing.TB, server string, maxVersion uint16) []byte {
	t.Helper()
	c, s := net.Pipe()
	defer s.Close()
	go func() {
		_ = tls.Client(c, &tls.Config{ServerName: server, InsecureSkipVerify: server == "", MaxVersion: maxVersion}).Handshake()
		c.Close()
	}()
	p := make([]byte, 4<<10)
	n, err := s.Read(p) // crypto/tls writes it at once
	if err != nil {
		t.Fatal(err)
	}
	return p[:n]
}

// inRecords cuts the message that p is into records of so many bytes.
func inRecords(p []byte, size int) (out []byte) {
	for p = p[recordHeader:]; len(p) > 0; {
		n := min(size, len(p))
		out = append(append(out, recordHandshake, recordVersion, 1, byte(n>>8), byte(n)), p[:n]...)
		p = p[n:]
	}
	return out
}

func TestServerNameOfAGreeting(t *testing.T) {
	for name, row := range map[string]struct {
		p    []byte
		want string
		err  error
	}{
		"TLS 1.3":                {hello(t, "db.example.com", 0), "db.example.com", nil},
		"TLS 1.2":                {hello(t, "db.example.com", tls.VersionTLS12), "db.example.com", nil},
		"without a name":         {hello(t, "", 0), "", nil},
		"and more":               {append(hello(t, "db", 0), "more"...), "db", nil},
		"in records":             {inRecords(hello(t, "db.example.com", 0), 200), "db.example.com", nil},
		"in records of 3 bytes":  {inRecords(hello(t, "db.example.com", 0), 3), "", errBadHello},
		"not TLS":                {[]byte("\x00SSH"), "", nil},
		"SSH":                    {[]byte("SSH-2.0"), "", nil},
		"another version":        {[]byte{22, 2, 1, 0, 4, 1, 0, 0, 0}, "", errBadHello},
		"an empty record":        {[]byte{22, 3, 1, 0, 0, 22, 3}, "", errBadHello},
		"too long a record":      {[]byte{22, 3, 1, 0xff, 0xff}, "", errBadHello},
		"too long a message":     {[]byte{22, 3, 1, 0, 4, 1, 1, 0, 0}, "", errBadHello},
		"a ServerHello":          {[]byte{22, 3, 3, 0, 4, 2, 0, 0, 0}, "", errBadHello},
		"nothing in it":          {[]byte{22, 3, 1, 0, 4, 1, 0, 0, 0}, "", errBadHello},
		"an alert in the middle": {append(inRecords(hello(t, "db", 0), 100)[:105], 21, 3, 3, 0, 2, 1, 0), "", errBadHello},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := serverName(row.p)
			if got != row.want || !errors.Is(err, row.err) || row.err == nil && err != nil {
				t.Errorf("got %q, %v, want %q, %v", got, err, row.want, row.err)
			}
			// Cut anywhere, it is the same, or more is asked for.
			for n := 1; n < len(row.p); n++ {
				got, err := serverName(row.p[:n])
				switch {
				case errors.Is(err, errMore):
				case got != row.want || !errors.Is(err, row.err) || row.err == nil && err != nil:
					t.Fatalf("of %d bytes: got %q, %v", n, got, err)
				default:
					return
				}
			}
		})
	}
}

// FuzzServerName never panics, never waits for more than it holds, and of a
// greeting that it can read knows the name whatever follows.
func FuzzServerName(f *testing.F) {
	f.Add(hello(f, "db.example.com", 0))
	f.Add(inRecords(hello(f, "db", tls.VersionTLS12), 90))
	f.Add([]byte{22, 3, 1, 0, 4, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) == 0 {
			return
		}
		name, err := serverName(p)
		if errors.Is(err, errMore) {
			if len(p) > maxHello+maxHelloRecords*recordHeader {
				t.Errorf("%d bytes are not enough", len(p))
			}
			return
		}
		again, err2 := serverName(append(p[:len(p):len(p)], strings.Repeat("x", 9)...))
		if again != name || !errors.Is(err2, err) && err != nil || err == nil && err2 != nil {
			t.Errorf("%q, %v, and with more behind it %q, %v", name, err, again, err2)
		}
	})
}
