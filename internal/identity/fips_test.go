package identity

import (
	"crypto/fips140"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestHandshakesInFIPSMode runs the tests of handshakes once more in a process
// that is in FIPS 140-3 mode, as one is that `make build-fips` has built.
func TestHandshakesInFIPSMode(t *testing.T) {
	if fips140.Enabled() {
		return // this is that process, or all of them are
	}
	c := exec.Command(os.Args[0], "-test.v", "-test.run=^(TestHandshakesInFIPSMode|TestHandshakeTellsWhoTheClientIs|TestServerRefuses|TestRevokedPeersAreRefused|TestSelfIssuesAndRotates|TestIstioAsksOnceForEachIdentity)$")
	c.Env = append(os.Environ(), "GODEBUG=fips140=on")
	out, err := c.CombinedOutput()
	if err != nil || strings.Count("\n"+string(out), "\n--- PASS: Test") != 6 {
		t.Errorf("%v\n%s", err, out)
	}
}
