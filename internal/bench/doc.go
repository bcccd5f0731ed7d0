// Package bench is a load generator for meshes and the destination behind it:
// `waystone bench load` and `waystone bench dest`.
//
//	Load ─ Run ─► hbone.Pool ═════► waypoint ═════► hbone.Server ─ Destination
//	         ▲                                           │
//	         └── latency, errors by kind, content by CRC ◄┘
//
// # Latency
//
// In a closed loop every tunnel sends its next request when the last has been
// answered, and latency counts from the send. That says what a system can do at
// most, and nothing about what its users would have felt: a server that stalls
// for a second is sent nothing meanwhile, and so is measured once. In an open
// loop requests arrive at times that the rate alone decides, whatever the server
// does; one that finds no free tunnel waits in a queue, and latency counts from
// the time at which it arrived. What is still unanswered at the end, and has
// been for a second, is in the percentiles too.
//
// # Cost
//
// The generator must cost much less than what it measures, on a machine that
// both share: it runs on one [loop.Loop], allocates nothing for an HTTP/1.1
// exchange and has no goroutine for a tunnel. Arrivals come from one thread
// that sleeps until exactly then, because the timers of an idle Go program are
// up to a millisecond late.
//
// # Correctness
//
// Content is the same pattern at both ends, and each checks the CRC-32C of what
// it was sent. What goes wrong is counted by kind and never ends a run.
package bench
