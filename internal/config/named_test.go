package config

import (
	"slices"
	"testing"
)

func TestNamed(t *testing.T) {
	entry := svc("aaa/entry", "10.1.0.9")
	entry.Hostname, entry.Canonical = host("default/items").Host, false
	wild := svc("default/wild")
	wild.Hostname, wild.Canonical = "*.example.com", false
	s := NewStore(Options{})
	apply(t, s, entry, svc("default/items", "10.1.0.1"), wild, pod("default/web", "10.0.0.6", "default/items"))

	for _, row := range []struct {
		host string
		want []string
	}{
		{host("default/items").Host, []string{"items", "entry"}}, // canonical first
		{".example.com", []string{"wild"}},
		{"*.example.com", nil},
		{"www.example.com", nil},
		{"nowhere", nil},
		{"", nil},
	} {
		var got []string
		for svc, ports := range s.Snapshot().Named(row.host) {
			got = append(got, svc.Name)
			if svc.Name == "items" && (len(ports) == 0 || len(ports[0].Endpoints) != 1) {
				t.Errorf("%s: ports %v, want one with an endpoint", row.host, ports)
			}
		}
		if !slices.Equal(got, row.want) {
			t.Errorf("%q: got %q, want %q", row.host, got, row.want)
		}
		for range s.Snapshot().Named(row.host) {
			break // the iteration may end early
		}
	}
}
