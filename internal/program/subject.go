package program

import "github.com/waystone-mesh/waystone/internal/dump"

// Subject is what a dump is of.
func (p *Process) Subject() dump.Subject {
	s := dump.Subject{Snapshot: p.Snapshot(), Rejected: p.Store.Rejected(), Identity: p.Identity}
	if p.files == nil {
		return s
	}
	for _, problem := range p.files.Problems() {
		s.Problems = append(s.Problems, problem.Err.Error())
	}
	return s
}
