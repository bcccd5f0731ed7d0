package program

import "github.com/waystone-mesh/waystone/internal/dump"

// subject is what a dump is of.
func (p *process) subject() dump.Subject {
	s := dump.Subject{Snapshot: p.snapshot(), Rejected: p.store.Rejected(), Identity: p.identity}
	if p.files == nil {
		return s
	}
	for _, problem := range p.files.Problems() {
		s.Problems = append(s.Problems, problem.Err.Error())
	}
	return s
}
