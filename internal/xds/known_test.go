package xds

import (
	"maps"
	"testing"
)

func TestKnownKeepsVersionsAsTheyAre(t *testing.T) {
	var k known
	want := map[string]string{}
	for i, text := range []string{"", "0", "00", "1", "01", "ffffffffffffffff", "fffffffffffffffff", "ABC", "abc", "9e3779b97f4a7c15", "2026-01-01/7", "-1"} {
		for as := range aMeshPolicy {
			name := string(rune('a'+i)) + string(rune('0'+as))
			k.put(name, as, []byte(text))
			if got, ok := k.kind(name); !ok || got != as {
				t.Errorf("version %q: got kind %v, %t, want %v", text, got, ok, as)
			}
			want[name] = text
		}
	}
	if got := maps.Collect(k.all()); !maps.Equal(got, want) || k.len() != len(want) {
		t.Errorf("got %v (%d), want %v", got, k.len(), want)
	}
	k.put("a0", aService, []byte("2")) // what was a workload is a service, and the other way round
	k.put("a1", aWorkload, []byte("2"))
	if a, _ := k.kind("a0"); a != aService {
		t.Errorf("got %v, want a service", a)
	}
	if b, _ := k.kind("a1"); b != aWorkload || k.len() != len(want) {
		t.Errorf("got %v of %d, want a workload of %d", b, k.len(), len(want))
	}
	for name := range want {
		k.remove(name)
	}
	if _, ok := k.kind("a0"); ok || k.len() != 0 {
		t.Errorf("%d left", k.len())
	}
}
