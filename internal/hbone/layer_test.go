package hbone

import (
	"flag"
	"os"
	"os/exec"
	"testing"
)

var cryptoTLS = flag.Bool("crypto-tls", false, "leave the records of TLS to crypto/tls")

// The tests of this package pass with either way to protect records.
func TestOnCryptoTLS(t *testing.T) {
	if *cryptoTLS {
		t.Skip("this is it")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), exe, "-crypto-tls", "-test.timeout=5m").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
