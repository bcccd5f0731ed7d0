package telemetry

import "math/bits"

// A Flag is a set of the reasons for which an exchange or connection ended
// otherwise than it should. The zero Flag is none, and is printed "-".
//
// The first are Envoy's response flags, under the names that its log prints;
// the others are ztunnel's, which says at most one.
type Flag uint64

// Envoy's flags, in the order in which it prints several.
const (
	LH    Flag = 1 << iota // the local health check failed
	UH                     // no healthy endpoint
	UT                     // the destination did not answer in time
	LR                     // we reset the connection
	UR                     // the destination reset it
	UF                     // connecting to the destination failed
	UC                     // the destination closed the connection
	UO                     // too many requests already on their way there
	NR                     // no route
	DI                     // a delay was injected
	FI                     // a fault was injected
	RL                     // rate limited
	UAEX                   // refused by an external authorizer
	RLSE                   // the rate-limit service failed
	DC                     // the client went away
	URX                    // retries or connect attempts exhausted
	SI                     // the stream was idle for too long
	IH                     // a field was refused by a strict check
	DPE                    // the client broke the protocol
	UMSDR                  // the stream reached its greatest age
	DT                     // the client did not finish in time
	UPE                    // the destination broke the protocol
	NC                     // the destination of the route does not exist
	OM                     // shed: we are short of memory
	DF                     // a name did not resolve
	DR                     // the client reset the stream

	// ztunnel's flags.

	Deny               // refused by policy
	ConnectFailure     // connecting failed, or anything else that is none of these
	TLSFailure         // the handshake failed
	H2HandshakeFailure // the HTTP/2 preface or SETTINGS failed
	NetworkPolicy      // connecting to port 15008 timed out: perhaps a NetworkPolicy
	IdentityError      // no certificate for the workload
	CertRevoked        // the peer's certificate is on the revocation list

	lastFlag
)

var flagNames = [...]string{
	"LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL",
	"UAEX", "RLSE", "DC", "URX", "SI", "IH", "DPE", "UMSDR", "DT", "UPE",
	"NC", "OM", "DF", "DR",
	"DENY", "CONNECT", "TLS_FAILURE", "H2_HANDSHAKE_FAILURE", "NETWORK_POLICY",
	"IDENTITY_ERROR", "CERT_REVOKED",
}

// String returns the flags as the logs print them: "-", "UF" or "UF,URX".
func (f Flag) String() string {
	switch {
	case f == 0:
		return "-"
	case f&(f-1) == 0 && f < lastFlag:
		return flagNames[bits.TrailingZeros64(uint64(f))]
	}
	return string(f.appendTo(nil))
}

func (f Flag) appendTo(b []byte) []byte {
	f &= lastFlag - 1
	if f == 0 {
		return append(b, '-')
	}
	for ; f != 0; f &= f - 1 {
		b = append(b, flagNames[bits.TrailingZeros64(uint64(f))]...)
		if f&(f-1) != 0 {
			b = append(b, ',')
		}
	}
	return b
}
