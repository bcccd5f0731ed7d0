package main

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

// TestSystemsCarryEveryProtocol has our own generator and destination at the ends
// of every system: what it counts as an error, nobody should measure.
func TestSystemsCarryEveryProtocol(t *testing.T) {
	live(t)
	e := testEnv(t)
	if why := have(e.program("waystone")); why != "" {
		t.Skip(why)
	}
	for _, s := range waypoints(e) {
		t.Run(s.name, func(t *testing.T) {
			e := testEnv(t)
			startDestination(t, e, "--transport", "hbone", "--listen", e.destination.HBONE.String(), "--identity", e.certs.source(), "--as", "default/"+serverAccount)
			r := upFor(t, e, s)
			for _, protocol := range []string{"http1", "grpc", "grpc-stream", "websocket", "raw", "connect"} {
				exchange(t, e, r, "--protocol", protocol, "--identity", e.certs.source(), "--peer", r.peer)
			}
			exchange(t, e, r, "--protocol", "http1", "--identity", e.certs.source(), "--peer", r.peer, "--size", "100KiB", "--send", "100KiB")
			if err := r.stop(); err != nil {
				t.Error(err)
			}
		})
	}
	for _, s := range tunnels(e) {
		t.Run(s.name, func(t *testing.T) {
			e := testEnv(t)
			startDestination(t, e, "--transport", "tcp", "--listen", e.destination.Plain.String())
			r := upFor(t, e, s)
			exchange(t, e, r, "--protocol", "http1")
			exchange(t, e, r, "--protocol", "raw", "--size", "100KiB")
			if err := r.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

func startDestination(t *testing.T, e *env, args ...string) {
	t.Helper()
	c, err := e.family.start("destination", e.logs+"/destination.log", e.program("waystone"), append([]string{"bench", "dest"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.await(t.Context(), connects(args[3])); err != nil {
		t.Fatal(err)
	}
}

// exchange runs a short load through a system and wants every answer to be right.
func exchange(t *testing.T, e *env, r *running, args ...string) {
	t.Helper()
	all := append([]string{
		"bench", "load", "--connect", r.connect, "--transport", r.transport, "--authority", r.to(args[1]),
		"--conns", "2", "--tunnels", "8", "--requests", "200", "--duration", "5s", "--warmup", "0s", "--json", "-", "--quiet",
	}, args...)
	text, err := exec.CommandContext(t.Context(), e.program("waystone"), all...).Output()
	if err != nil {
		t.Errorf("%s: %v", args[1], err)
		return
	}
	var result struct {
		Requests int
		Errors   map[string]int
	}
	if err := json.Unmarshal(text, &result); err != nil {
		t.Fatal(err)
	}
	if result.Requests < 200 || len(result.Errors) > 0 {
		t.Errorf("%s: got %+v", strings.Join(args, " "), result)
	}
}
