package dump

import (
	"cmp"
	"slices"
	"time"

	"github.com/waystone-mesh/waystone/internal/identity"
)

// A ZtunnelDump is a node tunnel's.
type ZtunnelDump struct {
	Workloads     []Workload     `json:"workloads"`
	Services      []Service      `json:"services"`
	Policies      []L4Policy     `json:"policies"`
	Staged        Staged         `json:"stagedServices"`
	WorkloadState map[string]Pod `json:"workloadState"` // by UID: the node's own
	Certificates  []Certificate  `json:"certificates"`
	Config        Settings       `json:"config"`
	Rejected      []Rejection    `json:"rejected"`
	Problems      []string       `json:"problems"`
	Version       Version        `json:"version"`
}

// A Tunnel is what a node tunnel knows beside its configuration.
type Tunnel struct {
	Pods     map[string]Pod // by UID
	Settings Settings
	Problems []string // with telling it
}

// A Pod is one that the node tunnel serves, or is to.
type Pod struct {
	State       string      `json:"state"`            // Pending, Up, Draining
	Reason      string      `json:"reason,omitempty"` // why it is pending
	Connections Connections `json:"connections"`
	Info        PodInfo     `json:"info"`

	Identity identity.ID `json:"-"` // who the pod is
	InMesh   bool        `json:"-"` // of others no certificate is shown: to ask for it might have it issued
}

// A PodInfo names a pod.
type PodInfo struct {
	Name           string `json:"name"`
	Namespace      string `json:"namespace"`
	TrustDomain    string `json:"trustDomain"`
	ServiceAccount string `json:"serviceAccount"`
}

// Connections are those of a pod that are open.
type Connections struct {
	Inbound  []Connection `json:"inbound"`
	Outbound []Connection `json:"outbound"`
}

// A Connection has the fields of ztunnel's, and some of ours after them.
type Connection struct {
	Src         string  `json:"src"`
	OriginalDst *string `json:"originalDst"` // outbound: an address; inbound: a service's host name, if it is known
	ActualDst   string  `json:"actualDst"`
	Protocol    string  `json:"protocol"` // HBONE, TCP

	Peer     string    `json:"peer,omitempty"` // who is at the other end, by certificate
	Service  string    `json:"service,omitempty"`
	Since    time.Time `json:"since"`
	Received uint64    `json:"receivedBytes"` // from the client
	Sent     uint64    `json:"sentBytes"`     // to the client
}

// Ztunnel dumps what a node tunnel knows.
func Ztunnel(s Subject, t Tunnel) ZtunnelDump {
	d := ZtunnelDump{
		Workloads: workloads(s.Snapshot), Policies: l4Policies(s.Snapshot), WorkloadState: map[string]Pod{}, Config: t.Settings,
		Rejected: rejections(s.Rejected), Problems: append(append([]string{}, s.Problems...), t.Problems...), Version: Build(),
	}
	d.Services, d.Staged = services(s.Snapshot)
	var ids []identity.ID
	for uid, p := range t.Pods {
		p.Info.TrustDomain, p.Info.ServiceAccount = p.Identity.TrustDomain, p.Identity.ServiceAccount
		p.Connections.Inbound = append([]Connection{}, p.Connections.Inbound...)
		p.Connections.Outbound = append([]Connection{}, p.Connections.Outbound...)
		d.WorkloadState[uid] = p
		if p.InMesh {
			ids = append(ids, p.Identity)
		}
	}
	slices.SortFunc(ids, func(a, b identity.ID) int { return cmp.Compare(a.String(), b.String()) })
	d.Certificates = certificates(s.Identity, ids)
	return d
}
