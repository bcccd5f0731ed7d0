package extauthz

import (
	"slices"
	"strings"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// An Edit changes the fields called Name, in lower case.
type Edit struct {
	Action Action
	Name   string
	Value  string
}

// An Action is what an Edit does.
type Action uint8

// The actions.
const (
	Set          Action = iota // replaces whatever there is
	Append                     // adds another
	AddIfAbsent                // adds if there is none
	SetIfPresent               // replaces if there is one
	Remove
)

// Apply edits fields.
func Apply(f l7.Fields, edits []Edit) l7.Fields {
	for _, e := range edits {
		switch e.Action {
		case Set:
			f = f.Set(e.Name, e.Value)
		case Append:
			f = append(f, l7.Field{Name: e.Name, Value: e.Value})
		case AddIfAbsent:
			if !f.Has(e.Name) {
				f = append(f, l7.Field{Name: e.Name, Value: e.Value})
			}
		case SetIfPresent:
			if f.Has(e.Name) {
				f = f.Set(e.Name, e.Value)
			}
		case Remove:
			f = f.Del(e.Name)
		}
	}
	return f
}

// A Parameter is one of a query.
type Parameter struct{ Name, Value string }

// Valid reports whether e is an authorizer's to make, and can be written: it is
// of neither the first line nor what belongs to the connection, its name is a
// token (RFC 9110, section 5.6.2), and its value is in one line.
func (e Edit) Valid() bool {
	return e.Name != "host" && !ofConnection(e.Name) && isToken(e.Name) && !strings.ContainsAny(e.Value, "\r\n\x00")
}

// valid returns the edits that are an authorizer's to make.
func valid(edits []Edit) []Edit {
	return slices.DeleteFunc(edits, func(e Edit) bool { return !e.Valid() })
}

// ofConnection reports whether a field belongs to the connection, or to framing.
func ofConnection(name string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "content-length":
		return true
	}
	return false
}

func isToken(name string) bool {
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			continue
		}
		if strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return name != ""
}
