package program

import "testing"

func TestAddressOfACAIsAnIdentitySource(t *testing.T) {
	for text, want := range map[string]string{
		"https://ca:15012": "istio:https://ca:15012", "istiod.istio-system.svc:15012": "istio:istiod.istio-system.svc:15012",
		"self:/dir": "self:/dir", "files:dir": "files:dir", "spiffe:unix:///x": "spiffe:unix:///x", "vault:x": "vault:x",
	} {
		if got, err := parseIdentity(text); err != nil || got != want {
			t.Errorf("%s: got %s, %v", text, got, err)
		}
	}
}
