// Package arch holds the tests that keep the architecture true: who may import
// whom, which package is the home of which heavy dependency, that every package
// says what it is for, and that no file grows past one idea.
//
// The tests parse the sources in-process. A test that asked `go list` would be
// answered from the test cache after an illegal import was added, because the
// cache does not see what a subprocess reads.
package arch
