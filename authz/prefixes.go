package authz

import "strings"

// prefixes find branches by what a path begins with, of which there may be several:
// a tree whose nodes part where the prefixes do. It costs what the path has in common
// with them, however many they are. The zero value is an empty root.
type prefixes struct {
	text     string     // beyond the parent's
	branch   *branch    // nil: no prefix ends here
	starts   string     // the first bytes of the children's texts
	children []prefixes // in the order of starts
}

func (p *prefixes) add(text string, n *branch) {
	common := 0
	for common < min(len(p.text), len(text)) && p.text[common] == text[common] {
		common++
	}
	if common < len(p.text) { // they part within
		below := *p
		below.text = p.text[common:]
		*p = prefixes{text: p.text[:common], starts: below.text[:1], children: []prefixes{below}}
	}
	if text = text[common:]; text == "" {
		p.branch = n
		return
	}
	if i := strings.IndexByte(p.starts, text[0]); i >= 0 {
		p.children[i].add(text, n)
		return
	}
	p.starts += text[:1]
	p.children = append(p.children, prefixes{text: text, branch: n})
}

// next returns the child that path leads to, or nil, and what is left of path there.
func (p *prefixes) next(path string) (*prefixes, string) {
	if path == "" {
		return nil, ""
	}
	i := strings.IndexByte(p.starts, path[0])
	if i < 0 {
		return nil, ""
	}
	c := &p.children[i]
	if !strings.HasPrefix(path, c.text) {
		return nil, ""
	}
	return c, path[len(c.text):]
}

func (p *prefixes) first(path string, f *facts, items []item, end int) int {
	for p != nil {
		end = p.branch.before(f, items, end)
		p, path = p.next(path)
	}
	return end
}

// look is branch.look, the longest first.
func (p *prefixes) look(path string, limit int, f func(int32)) int {
	if c, rest := p.next(path); c != nil {
		limit = c.look(rest, limit, f)
	}
	return p.branch.look(limit, f)
}
