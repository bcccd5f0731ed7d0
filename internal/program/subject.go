package program

import "github.com/waystone-mesh/waystone/internal/dump"

// subject is what a dump is of.
func (p *process) subject() dump.Subject {
	s := dump.Subject{Snapshot: p.snapshot(), Rejected: p.store.Rejected(), Identity: p.identity}
	for _, problem := range p.source.Problems() {
		s.Problems = append(s.Problems, problem.Err.Error())
	}
	return s
}
