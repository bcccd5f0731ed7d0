package program

import (
	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/flags"
	"github.com/waystone-mesh/waystone/internal/identity"
)

// SecurityOptions are the flags about what a handshake with another proxy takes.
type SecurityOptions struct {
	CRL         string // a file; "" is none
	PostQuantum bool
	TLS12       bool
}

func (o *SecurityOptions) define(set *pflag.FlagSet) {
	flags.Define(set, &o.CRL, "crl", "FILE", "", flags.Text, "certificate revocation lists, in PEM or one in DER, which are followed: connections of whom they name are refused, and cut when they are open", "CRL_PATH")
	flags.Define(set, &o.PostQuantum, "compliance-policy", "POLICY", "", identity.ParseCompliance, "pqc takes X25519MLKEM768 for key exchanges between proxies and nothing else; without it, that or what the other proxy has", "COMPLIANCE_POLICY")
	flags.Define(set, &o.TLS12, "tls12", "bool", "false", flags.Bool, "also take TLS 1.2 between proxies, except with --compliance-policy pqc", "TLS12_ENABLED")
}

// terms returns them as identity has them.
func (o *SecurityOptions) terms() identity.Terms {
	return identity.Terms{PostQuantum: o.PostQuantum, TLS12: o.TLS12}
}
