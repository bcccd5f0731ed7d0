package demo

import (
	"fmt"
	"io"
	"strings"
	"sync"
)

// A printer writes the walk-through. It is safe for concurrent use.
type printer struct {
	color bool

	mu  sync.Mutex
	out io.Writer
}

// The colours, and the way back.
const (
	bold  = "\x1b[1m"
	green = "\x1b[32m"
	red   = "\x1b[31m"
	dim   = "\x1b[2m"
	plain = "\x1b[0m"
)

func (p *printer) paint(color, text string) string {
	if !p.color {
		return text
	}
	return color + text + plain
}

func (p *printer) line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, format+"\n", args...)
}

// step prints the head of a step.
func (p *printer) step(n int, title string) {
	p.line("\n%s", p.paint(bold, fmt.Sprintf("%d. %s", n, title)))
}

func (p *printer) note(text string) { p.line("   %s", text) }

func (p *printer) command(text string) { p.line("   $ %s", text) }

// verdict prints what was expected and seen.
func (p *printer) verdict(ok bool, expected, seen string) {
	word := p.paint(green, "ok")
	if !ok {
		word = p.paint(red, "DIFFERS")
	}
	p.line("     expected  %s\n     seen      %s  [%s]", expected, seen, word)
}

// log prints lines of a proxy's log.
func (p *printer) log(from string, lines ...string) {
	for _, l := range lines {
		p.line("%s", p.paint(dim, "     "+from+" | "+strings.TrimRight(l, "\n")))
	}
}
