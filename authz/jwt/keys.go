package jwt

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// Keys are the keys of a JSON Web Key Set that can verify a token. They are
// immutable.
type Keys struct {
	keys    []key
	version [sha256.Size]byte // of the content they were read from
}

// A key verifies the signatures of algorithms.
type key struct {
	id         string
	algorithms []string // those that its kind has
	only       string   // the one it is for, or ""
	public     any      // *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey or, not public at all, []byte
}

// Len returns how many keys there are.
func (k *Keys) Len() int { return len(k.keys) }

// IDs returns the key IDs, "" for a key without one.
func (k *Keys) IDs() (ids []string) {
	for _, key := range k.keys {
		ids = append(ids, key.id)
	}
	return ids
}

// Same reports whether k and o were read from the same content.
func (k *Keys) Same(o *Keys) bool { return k.version == o.version }

// A ContentError says what is wrong with a key set.
type ContentError struct{ Problems []Problem }

// A Problem is what is wrong with one part of a key set. No key is ever part of
// it.
type Problem struct {
	Where       string // line 2, column 7, or keys[1]; "" is the whole
	Reason      string
	Unsupported bool // a key of a kind that is not for us: others are
}

func (p Problem) Error() string {
	if p.Where == "" {
		return p.Reason
	}
	return p.Where + ": " + p.Reason
}

func (e *ContentError) Error() string {
	var texts []string
	for _, p := range e.Problems {
		texts = append(texts, p.Error())
	}
	return strings.Join(texts, "; ")
}

// The lengths of RSA keys: at most 8192 bits, for verifying takes time with
// their square and a loop waits for it; at least 1024, as crypto/rsa has it.
const minRSABits, maxRSABits = 1024, 8192

// ParseKeys reads a JSON Web Key Set (RFC 7517) or, as some issuers have it, an
// object of RSA certificates by key ID. A key that cannot be used does not keep
// the others from being: it is in the error, a *ContentError. Keys are nil if
// the whole cannot be read.
func ParseKeys(content []byte) (*Keys, error) {
	var set map[string]json.RawMessage
	if err := json.Unmarshal(content, &set); err != nil {
		return nil, unreadable(content, err)
	}
	keys := &Keys{version: sha256.Sum256(content)}
	var problems []Problem
	add := func(where string, k key, err error) {
		if p := (Problem{}); errors.As(err, &p) {
			p.Where = where
			problems = append(problems, p)
			return
		}
		keys.keys = append(keys.keys, k)
	}
	raw, ok := set["keys"]
	if !ok {
		certificates := certificates(set)
		if certificates == nil {
			return nil, &ContentError{[]Problem{{Reason: `has no field "keys"`}}}
		}
		for _, id := range slices.Sorted(maps.Keys(certificates)) {
			k, err := certificateKey(id, certificates[id])
			add(id, k, err)
		}
	} else {
		var list []json.RawMessage
		if err := json.Unmarshal(raw, &list); err != nil || list == nil {
			return nil, &ContentError{[]Problem{{Where: "keys", Reason: "is not an array"}}}
		}
		for i, raw := range list {
			k, err := readKey(raw)
			add(fmt.Sprintf("keys[%d]", i), k, err)
		}
	}
	if problems != nil {
		return keys, &ContentError{problems}
	}
	return keys, nil
}

// unreadable says where content ceases to be JSON.
func unreadable(content []byte, err error) error {
	p := Problem{Reason: "is not a JSON object"}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		before := bytes.TrimRight(content[:min(int(syntax.Offset), len(content))], "\n")
		line := 1 + strings.Count(string(before), "\n")
		column := len(before) - (1 + strings.LastIndex(string(before), "\n"))
		p = Problem{Where: fmt.Sprintf("line %d, column %d", line, column), Reason: "is not JSON: " + syntax.Error()}
	}
	return &ContentError{[]Problem{p}}
}

// members are what we read of a key: what makes it public, and what it is for.
// The rest is not looked at, private parts among it, and certificates, which are
// for those who trust their issuer.
var members = []string{"kty", "kid", "alg", "use", "crv", "n", "e", "x", "y", "k"}

// readKey reads one key. The error is a Problem.
func readKey(raw json.RawMessage) (key, error) {
	var object map[string]any
	if err := json.Unmarshal(raw, &object); err != nil || object == nil {
		return key{}, Problem{Reason: "is not an object"}
	}
	public := map[string]string{}
	for _, name := range members {
		v, ok := object[name]
		s, isString := v.(string)
		if ok && !isString {
			return key{}, Problem{Reason: name + " is not a string"}
		}
		if !ok {
			continue
		}
		if len(name) == 1 {
			s = strings.TrimRight(s, "=") // of which there should be none
			if _, err := base64.RawURLEncoding.DecodeString(s); err != nil {
				return key{}, Problem{Reason: name + " is not base64url"}
			}
		}
		public[name] = s
	}
	kty, algorithm := public["kty"], public["alg"]
	algorithms, ok := algorithmsOf[kty]
	switch {
	case kty == "":
		return key{}, Problem{Reason: "kty is missing"}
	case !ok:
		return key{}, Problem{Reason: fmt.Sprintf("kty %q is not supported", kty), Unsupported: true}
	case public["use"] == "enc":
		return key{}, Problem{Reason: "is for encryption", Unsupported: true}
	case algorithm != "" && !slices.Contains(algorithms, algorithm):
		return key{}, Problem{Reason: fmt.Sprintf("alg %q is not supported of kty %s", algorithm, kty), Unsupported: true}
	case kty == "EC" && public["crv"] == "": // required, but inferred as in Envoy
		public["crv"] = curveOf[algorithm]
	case kty == "EC" && algorithmOf[public["crv"]] == "", kty == "OKP" && public["crv"] != "Ed25519":
		return key{}, Problem{Reason: fmt.Sprintf("crv %q is not supported", public["crv"]), Unsupported: true}
	}
	text, _ := json.Marshal(public) // strings: no error
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(text); err != nil {
		return key{}, Problem{Reason: strings.TrimPrefix(err.Error(), "go-jose/go-jose: ")}
	}
	return newKey(jwk.KeyID, algorithm, jwk.Key)
}

// newKey returns a key that is for the algorithm only, if that is not "".
func newKey(id, only string, public any) (key, error) {
	k := key{id: id, only: only, public: public}
	switch public := public.(type) {
	case *rsa.PublicKey:
		k.algorithms = algorithmsOf["RSA"]
		switch n := public.N.BitLen(); {
		case n < minRSABits || n > maxRSABits:
			return key{}, Problem{Reason: fmt.Sprintf("n has %d bits, not %d to %d", n, minRSABits, maxRSABits), Unsupported: true}
		case public.E != 3 && public.E != 65537:
			return key{}, Problem{Reason: fmt.Sprintf("e is %d, neither 3 nor 65537", public.E), Unsupported: true}
		}
	case *ecdsa.PublicKey:
		k.algorithms = []string{algorithmOf[public.Params().Name]}
		if only != "" && only != k.algorithms[0] {
			return key{}, Problem{Reason: fmt.Sprintf("alg %s is not for crv %s", only, public.Params().Name)}
		}
	case ed25519.PublicKey:
		k.algorithms = algorithmsOf["OKP"]
	case []byte:
		k.algorithms = algorithmsOf["oct"]
		if len(public) == 0 {
			return key{}, Problem{Reason: "k is empty"}
		}
	}
	return k, nil
}

// certificates returns set as PEM blocks by key ID, or nil if it is something
// else.
func certificates(set map[string]json.RawMessage) map[string]string {
	out := map[string]string{}
	for id, raw := range set {
		var text string
		if json.Unmarshal(raw, &text) != nil || !strings.HasPrefix(text, "-----BEGIN CERTIFICATE-----\n") {
			return nil
		}
		out[id] = text
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func certificateKey(id, text string) (key, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return key{}, Problem{Reason: "is not a certificate in PEM"}
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return key{}, Problem{Reason: err.Error()}
	}
	public, ok := c.PublicKey.(*rsa.PublicKey)
	if !ok {
		return key{}, Problem{Reason: "is not a certificate of an RSA key", Unsupported: true}
	}
	return newKey(id, "", public)
}
