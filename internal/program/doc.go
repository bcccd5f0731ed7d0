// Package program is what the two proxies have in common as programs: flags, and
// the list of what stands around a data path. What differs is in waypointcmd and
// ztunnelcmd.
//
//	flags → log → telemetry → store → admin → source → identity → proxy
//
// What comes first is there first: readiness is answered, and says what is
// pending, while the configuration is read and the first certificate waited for.
// A signal, or the first failure, ends all of it in the opposite order: not
// ready, no new connections, what is in flight up to a deadline, logs and spans.
//
// There is no decision about traffic in here.
package program
