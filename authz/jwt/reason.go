package jwt

import "strings"

// A Reason says why a request was refused. Its text is the response's, and is
// Envoy's.
type Reason uint8

// The reasons. OK is that of a request that was not refused; Missing never
// refuses one by itself.
const (
	OK Reason = iota
	Missing
	BadFormat
	HeaderBadBase64
	HeaderBadJSON
	BadAlgorithm
	UnknownAlgorithm
	BadKeyID
	PayloadBadBase64
	PayloadBadJSON
	BadIssuer
	BadSubject
	BadIssuedAt
	IssuedAtOutOfRange
	BadNotBefore
	NotBeforeOutOfRange
	BadExpires
	ExpiresOutOfRange
	BadTokenID
	BadAudience
	SignatureBadBase64
	UnknownIssuer
	NotYetValid
	Expired
	AudienceNotAllowed
	KeysNotFetched
	NoKeys
	NoKeyMatches
	SignatureWrongLength
	VerificationFails
	TooManyTokens
)

var reasonTexts = [...]string{
	OK:                   "OK",
	Missing:              "Jwt is missing",
	BadFormat:            "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
	HeaderBadBase64:      "Jwt header is an invalid Base64url encoded",
	HeaderBadJSON:        "Jwt header is an invalid JSON",
	BadAlgorithm:         "Jwt header [alg] field is required and must be a string",
	UnknownAlgorithm:     "Jwt header [alg] is not supported",
	BadKeyID:             "Jwt header [kid] field is not a string",
	PayloadBadBase64:     "Jwt payload is an invalid Base64url encoded",
	PayloadBadJSON:       "Jwt payload is an invalid JSON",
	BadIssuer:            "Jwt payload [iss] field is not a string",
	BadSubject:           "Jwt payload [sub] field is not a string",
	BadIssuedAt:          "Jwt payload [iat] field is not an integer",
	IssuedAtOutOfRange:   "Jwt payload [iat] field is not a positive 64 bit integer",
	BadNotBefore:         "Jwt payload [nbf] field is not an integer",
	NotBeforeOutOfRange:  "Jwt payload [nbf] field is not a positive 64 bit integer",
	BadExpires:           "Jwt payload [exp] field is not an integer",
	ExpiresOutOfRange:    "Jwt payload [exp] field is not a positive 64 bit integer",
	BadTokenID:           "Jwt payload [jti] field is not a string",
	BadAudience:          "Jwt payload [aud] field is not a string or string list",
	SignatureBadBase64:   "Jwt signature is an invalid Base64url encoded",
	UnknownIssuer:        "Jwt issuer is not configured",
	NotYetValid:          "Jwt not yet valid",
	Expired:              "Jwt is expired",
	AudienceNotAllowed:   "Audiences in Jwt are not allowed",
	KeysNotFetched:       "Jwks remote fetch is failed",
	NoKeys:               "Jwks doesn't have any valid public key",
	NoKeyMatches:         "Jwks doesn't have key to match kid or alg from Jwt",
	SignatureWrongLength: "Jwt ED25519 signature is wrong length",
	VerificationFails:    "Jwt verification fails",
	TooManyTokens:        "Found multiple Jwt tokens",
}

func (r Reason) String() string { return reasonTexts[r] }

// Status is that of the response: 401, or 403 for a token that is valid
// elsewhere. It is 0 for OK.
func (r Reason) Status() int {
	switch r {
	case OK:
		return 0
	case AudienceNotAllowed:
		return 403
	}
	return 401
}

// Details is what the access log says, in response_code_details.
func (r Reason) Details() string {
	if r == OK {
		return ""
	}
	return deniedPrefix + strings.ReplaceAll(r.String(), " ", "_") + "}"
}

const deniedPrefix = "jwt_authn_access_denied{"
