// Package ztunnelcmd is the node tunnel as a program: its flags, and what it has
// beside a waypoint: istiod as a source of configuration, certificates of its pods
// at hand, DNS, and the dump that istioctl reads.
//
// It is a package, and not a main, because the command-line tool runs it as well;
// and one of its own so that a node tunnel does not link what it never uses.
package ztunnelcmd
