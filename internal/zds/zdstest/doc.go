// Package zdstest is the agent of a CNI, for tests: the server of package zds. It
// needs Linux.
package zdstest
