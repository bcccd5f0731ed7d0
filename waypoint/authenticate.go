package waypoint

// authenticate verifies the tokens that the request brings for the destination's
// RequestAuthentications. Without one it passes: who must have one is for the
// policies to say, which are asked next and learn what the token says.
func (x *exchange) authenticate() step {
	set := x.dest.Tokens
	if set == nil {
		return stepAuthorize
	}
	w := x.session.worker
	res := set.Check(w.loop.Now(), &x.req, w.options.Keys(), w.tokens)
	if !res.Allowed {
		return x.fail(&tokenError{
			status: res.Reason.Status(), reason: res.Reason.String(), details: res.Details(), challenge: res.Challenge(&x.req),
		})
	}
	res.Apply(&x.req)
	if x.token = res.Token; x.token != nil {
		x.recordToken()
	}
	return stepAuthorize
}
