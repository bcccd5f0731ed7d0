// Package dump is what /config_dump says: the configuration in force, as the
// program understood it.
//
// A node tunnel's dump has the shape of ztunnel's, because istioctl reads that.
// A waypoint's has the same workloads and services and, in place of Envoy's
// listeners and clusters, the resources that it was given. Both tell what was
// rejected and why, which neither of the originals does.
//
// Nothing secret is in a dump: of a certificate, the public part.
package dump

import (
	"runtime/debug"
	"time"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/identity"
)

// A Subject is what is dumped.
type Subject struct {
	Snapshot *config.Snapshot
	Rejected []config.Rejection
	Problems []string // objects, documents and files that the source could not use
	Identity identity.Source
}

// A Version says which program this is.
type Version struct {
	Version     string `json:"version"`
	GitRevision string `json:"gitRevision"`
	GoVersion   string `json:"goVersion"`
}

// Build returns the version that the Go tool has recorded in the program.
func Build() Version {
	v := Version{Version: "unknown", GitRevision: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.GoVersion = info.GoVersion
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			v.GitRevision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			v.GitRevision += "-dirty"
		}
	}
	return v
}

// A Rejection is a resource that was not accepted.
type Rejection struct {
	Kind      string    `json:"kind"`
	Namespace string    `json:"namespace,omitempty"`
	Name      string    `json:"name"`
	Reason    string    `json:"reason"`
	Since     time.Time `json:"since"`

	// Closed is set for a policy that never was good: what it is attached to
	// refuses everyone.
	Closed bool `json:"failsClosed,omitempty"`
}

func rejections(list []config.Rejection) []Rejection {
	out := make([]Rejection, 0, len(list))
	for _, r := range list {
		out = append(out, Rejection{r.Key.Kind, r.Key.Namespace, r.Key.Name, r.Err.Error(), r.Since, r.Closed})
	}
	return out
}
