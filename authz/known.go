package authz

import "slices"

// A Lack is a set of attributes of an Input that are not known: there may be a
// value or none. It is not the same as an attribute that the Input is known not
// to have.
type Lack uint32

// Lacking returns the Lack of some attributes. Of an identity all is known or
// nothing, by whichever attribute it is named.
func Lacking(attrs ...Attribute) (out Lack) {
	for _, a := range attrs {
		out |= a.bit()
	}
	return out
}

func (a Attribute) bit() Lack {
	if a <= TrustDomain {
		a = Principal
	}
	return 1 << a
}

// Known says how much of an Input is known. The zero Known is all of it.
type Known struct {
	Lack Lack

	// Fields are, if Header is lacking, the header fields that are known all the
	// same: those with a value are in the Input. Of the names in Blank it is known
	// that there is no such field, or an empty one.
	Fields, Blank []string

	// NoQuery says that of the path, the query is not known.
	NoQuery bool

	// Subject is, if RequestPrincipal is lacking, all that is known of the
	// request's token: its issuer and subject with a slash between them. It may
	// not be the only slash: Issuers are those that it can be of; none: any.
	Subject string
	Issuers []string

	// Answered says what an authorizer has answered, or would; nil: it is not
	// known of any.
	Answered func(provider string) Result
}

// A Judgement is a verdict on what is known of an Input.
type Judgement struct {
	// Result is what Check says once all is known, whatever that is; Unknown says
	// that it depends.
	Result Result

	// Policy and Rule are what decides or, if the Result is Unknown, the first that
	// it depends on. Policy is nil, and Rule -1, if there is none.
	Policy *Policy
	Rule   int
	Closed bool // everything is denied: a policy cannot be enforced

	// Missing is, if the Result is Unknown, what it depends on: see Judge.Names.
	Missing uint64
}

// A Judge gives a Set's verdict on inputs of which not all is known. It is
// immutable and safe for concurrent use.
type Judge struct {
	set          *Set
	http, opaque needs
	names        []string
	number       map[string]int
}

// needs is what a decider asks for.
type needs struct {
	attrs  Lack
	fields []string
	custom bool
}

// NewJudge returns the Judge of a Set, which may be nil.
func NewJudge(s *Set) *Judge {
	j := &Judge{set: s, number: map[string]int{}}
	if s == nil {
		return j
	}
	for _, e := range s.entries {
		j.http.read(e.HTTP)
		j.opaque.read(e.Opaque)
		j.name(e.HTTP)
		j.name(e.Opaque)
		if e.Action == Custom {
			j.http.custom, j.opaque.custom = true, true
			j.add(answerOf(e.Provider))
		}
	}
	return j
}

func (n *needs) read(e *Expr) {
	if e == nil {
		return
	}
	if e.op == opMatch {
		n.attrs |= e.attr.bit()
		if e.attr == Header && !slices.Contains(n.fields, e.name) {
			n.fields = append(n.fields, e.name)
		}
	}
	for _, k := range e.kids {
		n.read(k)
	}
}

func (j *Judge) name(e *Expr) {
	if e == nil {
		return
	}
	if e.op == opMatch {
		j.add(e.attribute())
	}
	for _, k := range e.kids {
		j.name(k)
	}
}

// maxNames is how many names fit into Judgement.Missing. The last of them stands
// for all that are left.
const maxNames = 64

func (j *Judge) add(name string) {
	if _, known := j.number[name]; known {
		return
	}
	j.number[name] = min(len(j.names), maxNames-1)
	if len(j.names) == maxNames-1 {
		name = "others"
	}
	if len(j.names) < maxNames {
		j.names = append(j.names, name)
	}
}

// answerOf names what an authorizer has to say.
func answerOf(provider string) string { return "the answer of " + provider }

// Names returns what a Judgement is missing, as keys of when name it; or host,
// method, path or the answer of a provider.
func (j *Judge) Names(missing uint64) (out []string) {
	for i, name := range j.names {
		if missing&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return out
}

// Rules returns how many rules there are to be looked at.
func (j *Judge) Rules() int {
	if j.set == nil {
		return 0
	}
	return len(j.set.entries)
}

// Asks returns which attributes the verdict on a request, or on a connection that
// is not HTTP, may depend on, and which header fields.
func (j *Judge) Asks(http bool) (Lack, []string) {
	if http {
		return j.http.attrs, j.http.fields
	}
	return j.opaque.attrs, j.opaque.fields
}

// Judge gives the verdict on in, of which k says what is known. It says yes or no
// only if Decide does for every Input that is as k knows it: it may not see that
// two unknown conditions make a certain one.
func (j *Judge) Judge(in *Input, k *Known) (out Judgement) {
	out.Rule = -1
	s := j.set
	switch {
	case s == nil:
		out.Result = Allowed
		return out
	case s.closed != "":
		out.Result, out.Closed = Denied, true
		return out
	}
	n := &j.opaque
	if in.HTTP != nil {
		n = &j.http
	}
	if !n.custom && n.settled(k) {
		v := s.Decide(in)
		out.Result, out.Policy, out.Rule = Denied, v.Policy, v.Rule
		if v.Allowed {
			out.Result = Allowed
		}
		return out
	}
	w := weighing{Judge: j, known: k}
	w.facts.read(in)
	w.weigh(s.of(in), &out)
	return out
}

// settled reports whether all that is asked for is known.
func (n *needs) settled(k *Known) bool {
	lack := n.attrs &^ Header.bit()
	if lack&DestPort.bit() != 0 {
		lack |= DestIP.bit() // without an address there is no port
	}
	return lack&k.Lack == 0 && !slices.ContainsFunc(n.fields, func(name string) bool { return !k.hasField(name) })
}

// hasField reports whether a header field is known. What HTTP/2 calls
// pseudo-fields are as well known as what they are.
func (k *Known) hasField(name string) bool {
	switch name {
	case ":authority", "host":
		return k.Lack&Host.bit() == 0
	case ":method":
		return k.Lack&Method.bit() == 0
	case ":path":
		return k.Lack&Path.bit() == 0 && !k.NoQuery
	}
	return k.Lack&Header.bit() == 0 || slices.Contains(k.Fields, name)
}
