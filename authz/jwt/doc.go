// Package jwt decides whether the JSON Web Tokens that come with a request are
// valid, and what of them goes on: it is RequestAuthentication.
//
// The policies attached to one destination make a [Set]. Each of their rules is
// an issuer whose tokens are taken, with the places where they are looked for:
// named fields, query parameters and cookies, or else "authorization: Bearer"
// and the parameter access_token. A request without a token passes, and so does
// one of CORS that asks for permission; who must have a token is for an
// AuthorizationPolicy to say, to which a valid one is an [authz.Token].
//
// A rule takes a request if there are tokens where it looks and all of them are
// valid: of its issuer (or any, if it names none), not outside their time by
// more than a minute, for one of its audiences, signed by one of its keys. Of
// several rules, in the order of their issuers, the first that takes a request
// lets it pass. If none does, it passes if every rule finds no token or takes
// those it finds; what an earlier rule took and does not forward is gone by
// then. This is how istiod puts several rules to Envoy, where they mean "any of
// them, or else for each: it or nothing", and so are the reasons for refusals,
// word for word, and which of several is told.
//
// Where Envoy is lax, this is not:
//
//   - A token has three sections and two dots, no padding and no stray bits, and
//     no critical header parameters (RFC 7515, section 4.1.11).
//   - A parameter or cookie that is there twice is two tokens.
//   - A rule looks at no more than 8 tokens: each may cost a verification.
//   - An algorithm is for a key of its kind alone, and none is for a key that is
//     there to encrypt.
//   - A token that is not forwarded is taken out of cookies, too.
//   - Fields that any rule writes are never a client's, whichever rule took the
//     request; a claim that would not be a valid field value is not written.
//
// Nothing here fetches a key, starts a goroutine or reads a clock. Keys come as
// a [Ring], which package jwks fills, and rules whose keys are not in it refuse
// every token. Verifying a signature takes 30 to 100 µs, so a [Verifier]
// remembers the outcome; the text of a token is never kept, nor part of an
// error.
package jwt
