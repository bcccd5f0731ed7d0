// Package authz decides whether a request may pass.
package authz
