package authz

// A Token is what a valid JWT says. It is made once, when the JWT is verified,
// and never changed: requests that carry the same JWT share it.
type Token struct {
	Issuer, Subject string   // iss and sub; "" if it has none
	Presenter       string   // azp
	Audiences       []string // aud, which may be one string or several

	// Claims are all claims, as encoding/json decodes them into an any. A
	// string that is a list of words by its nature, such as scope, is a list
	// already.
	Claims map[string]any
}
