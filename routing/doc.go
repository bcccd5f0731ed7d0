// Package routing answers one question: where does this request go?
//
// A [Route] is an HTTPRoute of the Gateway API as its author wrote it. Routes
// that speak of the same port of a service are compiled into one [Table],
// which is immutable, and a request is matched against that.
//
// # Precedence
//
// A rule may have several matches and a table many rules, of many routes. All
// matches compete as equals; the first of these differences decides:
//
//   - an Exact path beats a PathPrefix, which beats a RegularExpression;
//   - of two prefixes (and, as Istio has it, of two expressions) the longer one;
//   - a match that names a method beats one that does not;
//   - the larger number of header matches;
//   - the larger number of query parameter matches;
//   - the older route;
//   - the route whose namespace/name sorts first;
//   - the rule, and then the match, that stands first in its route.
//
// The order is found once, by [Compile]; [Table.Match] only walks it.
//
// # What there is when nothing matches
//
// A service that no route speaks of has the table of no routes, in which the
// rule "default" takes every request to the service itself. A service with a
// route is served by its routes only: what none of them matches is not found
// (404). A rule whose weights are all zero, or that has no backend, and a
// backend that is not valid answer 500.
//
// # What it does not do
//
// Host names of routes mean nothing in the mesh, where the request was already
// addressed to a service, and are not looked at. The package opens nothing,
// waits for nothing and reads no clock.
package routing
