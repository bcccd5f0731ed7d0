// Package waypointcmd is the waypoint as a program: its flags, and what it has
// beside a node tunnel: keys of tokens, and authorizers, in the mesh or in process.
//
// It is a package, and not a main, because the command-line tool runs it as well.
package waypointcmd
