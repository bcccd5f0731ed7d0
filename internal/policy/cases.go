package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A Suite is what a file of cases says.
type Suite struct {
	File     string
	Policies []string // files and directories, as they can be opened from here
	Options  Options
	Cases    []Case
}

// A Case is a request and what is to become of it.
type Case struct {
	Line    int
	Name    string
	Request Request

	Allow  bool
	Policy string // ns/name of the one that has to decide, none, or "": whichever
	Status int    // of the refusal; 0: any

	expects bool // Allow was said
}

// ReadCases reads a file of cases. An error says on which line.
func ReadCases(name string, data []byte) (*Suite, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, errors.New(name + ": " + strings.TrimPrefix(err.Error(), "yaml: "))
	}
	s := &Suite{File: name}
	if len(doc.Content) == 0 {
		return nil, fmt.Errorf("%s: there is nothing in it", name)
	}
	defaults := Case{}
	var cases *yaml.Node
	err := mapping(doc.Content[0], func(key string, n *yaml.Node) (err error) {
		switch key {
		case "policies":
			s.Policies, err = texts(n)
			for i, path := range s.Policies {
				if !filepath.IsAbs(path) {
					s.Policies[i] = filepath.Join(filepath.Dir(name), path)
				}
			}
		case "trustDomain":
			s.Options.TrustDomain, err = scalar(n)
		case "rootNamespace":
			s.Options.RootNamespace, err = scalar(n)
		case "defaults":
			err = mapping(n, defaults.set)
		case "cases":
			cases = n
		default:
			err = unknown(n, key, "policies", "trustDomain", "rootNamespace", "defaults", "cases")
		}
		return err
	})
	if err == nil {
		err = s.read(cases, &defaults)
	}
	if err != nil {
		return nil, fmt.Errorf("%s:%w", name, err)
	}
	return s, nil
}

// read reads the cases.
func (s *Suite) read(list *yaml.Node, defaults *Case) error {
	if list == nil || list.Kind != yaml.SequenceNode {
		return at(list, "cases: there is no list of them")
	}
	for _, n := range list.Content {
		c := *defaults
		c.Line = n.Line
		c.Request.Fields = slices.Clone(c.Request.Fields)
		if err := mapping(n, c.set); err != nil {
			return err
		}
		if !c.expects {
			return at(n, "expect: is required: allow or deny")
		}
		if c.Name == "" {
			c.Name = c.Request.Method + " " + c.Request.Path + " from " + c.Request.From
		}
		s.Cases = append(s.Cases, c)
	}
	return nil
}

// caseKeys are what a case may have.
var caseKeys = []string{"name", "from", "to", "sourceIP", "method", "path", "host", "port", "headers", "jwt", "answers", "sni", "tcp", "at", "waypoint",
	"expect", "policy", "status"}

// set sets what a case has under key.
func (c *Case) set(key string, n *yaml.Node) (err error) {
	r := &c.Request
	words := map[string]*string{"name": &c.Name, "from": &r.From, "to": &r.To, "method": &r.Method, "path": &r.Path, "host": &r.Host, "sni": &r.SNI, "at": &r.At, "policy": &c.Policy}
	if into := words[key]; into != nil {
		*into, err = scalar(n)
		return err
	}
	switch key {
	case "sourceIP":
		return parsed(n, &r.SourceIP, netip.ParseAddr)
	case "port":
		return parsed(n, &r.Port, func(s string) (uint16, error) { p, err := strconv.ParseUint(s, 10, 16); return uint16(p), err })
	case "status":
		return parsed(n, &c.Status, strconv.Atoi)
	case "tcp":
		return parsed(n, &r.TCP, strconv.ParseBool)
	case "waypoint":
		return parsed(n, &r.Waypoint, ParseName)
	case "headers":
		return mapping(n, func(name string, n *yaml.Node) error {
			v, err := scalar(n)
			r.Fields = r.Fields.Set(strings.ToLower(name), v)
			return err
		})
	case "jwt":
		return c.claims(n)
	case "answers":
		r.Answers = map[string]bool{}
		return mapping(n, func(name string, n *yaml.Node) (err error) {
			r.Answers[name], err = yesOrNo(n, "answers")
			return err
		})
	case "expect":
		c.Allow, err = yesOrNo(n, "expect")
		c.expects = true
		return err
	}
	return unknown(n, key, caseKeys...)
}

// claims reads what a valid token says: as JSON would have it.
func (c *Case) claims(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		c.Request.Claims = nil
		return nil
	}
	var claims map[string]any
	if err := n.Decode(&claims); err != nil {
		return at(n, "jwt: it is not a mapping of claims")
	}
	raw, err := json.Marshal(claims)
	if err != nil {
		return at(n, "jwt: "+err.Error())
	}
	c.Request.Claims = nil
	return json.Unmarshal(raw, &c.Request.Claims)
}

func yesOrNo(n *yaml.Node, key string) (bool, error) {
	switch s, _ := scalar(n); s {
	case "allow":
		return true, nil
	case "deny":
		return false, nil
	}
	return false, at(n, key+": is neither allow nor deny")
}

// at returns an error on the line of n; what is put before it is the file.
func at(n *yaml.Node, reason string) error {
	if n == nil {
		return errors.New("1: " + reason)
	}
	return fmt.Errorf("%d: %s", n.Line, reason)
}

// unknown says that there is no such key, and which there are.
func unknown(n *yaml.Node, key string, known ...string) error {
	return at(n, fmt.Sprintf("%s: there is no such key; there are %s", key, strings.Join(known, ", ")))
}

// mapping calls f for each key and value of n.
func mapping(n *yaml.Node, f func(string, *yaml.Node) error) error {
	n = followed(n)
	if n.Kind != yaml.MappingNode {
		return at(n, "it is not a mapping of keys to values")
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if seen[key.Value] {
			return at(key, key.Value+": is there twice")
		}
		seen[key.Value] = true
		value := followed(n.Content[i+1])
		if value.Kind == yaml.ScalarNode || value.Line == 0 {
			copied := *value
			copied.Line = key.Line // where its name stands
			value = &copied
		}
		if err := f(key.Value, value); err != nil {
			return err
		}
	}
	return nil
}

// followed follows an alias.
func followed(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	return n
}

func scalar(n *yaml.Node) (string, error) {
	if n.Kind != yaml.ScalarNode {
		return "", at(n, "it is not a single value")
	}
	if n.Tag == "!!null" {
		return "", nil
	}
	return n.Value, nil
}

func texts(n *yaml.Node) (out []string, err error) {
	if n.Kind == yaml.ScalarNode {
		s, err := scalar(n)
		return []string{s}, err
	}
	for _, item := range n.Content {
		s, err := scalar(followed(item))
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// parsed reads a value by parse.
func parsed[T any](n *yaml.Node, into *T, parse func(string) (T, error)) error {
	s, err := scalar(n)
	if err == nil {
		var v T
		if v, err = parse(s); err == nil {
			*into = v
			return nil
		}
		err = at(n, fmt.Sprintf("%q: %v", s, err))
	}
	return err
}
