package main

import (
	"fmt"
	"slices"
	"strings"
)

// Notes are what a person has to say about targets that are not met: the profile,
// what was tried, the floor that was found. They are sections of a Markdown file,
// whose headings are names of targets:
//
//	## cpu-0-1k, cpu-1k-1k
//	Nine tenths are …
type notes []note

type note struct {
	about []string
	text  string
}

// readNotes reads them. What stands before the first heading is for whoever edits
// the file. A heading that names no target is an error: what it has to say would
// be lost.
func readNotes(text string) (notes, error) {
	var all notes
	for line := range strings.Lines(text) {
		if heading, ok := strings.CutPrefix(line, "## "); ok {
			n := note{}
			for name := range strings.SplitSeq(heading, ",") {
				name = strings.TrimSpace(name)
				if !slices.ContainsFunc(targets(), func(t target) bool { return t.name == name }) {
					return nil, fmt.Errorf("notes.md: %q is no target", name)
				}
				n.about = append(n.about, name)
			}
			all = append(all, n)
			continue
		}
		if len(all) > 0 {
			all[len(all)-1].text += line
		}
	}
	return all, nil
}

// of returns what there is to say about a target.
func (all notes) of(name string) string {
	for _, n := range all {
		if slices.Contains(n.about, name) {
			return strings.TrimSpace(n.text)
		}
	}
	return ""
}
