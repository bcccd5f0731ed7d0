package manifest

import (
	"fmt"
	"maps"

	"sigs.k8s.io/yaml"
)

// A ProxyConfig is what a node tunnel reads of Istio's ProxyConfig
// (istio.mesh.v1alpha1.ProxyConfig). Other keys are for sidecars.
type ProxyConfig struct {
	DiscoveryAddress string            `json:"discoveryAddress"`
	ProxyAdminPort   uint16            `json:"proxyAdminPort"`
	StatsPort        uint16            `json:"statsPort"`
	Concurrency      *uint16           `json:"concurrency"` // nil: not said; 0: all cores
	ProxyMetadata    map[string]string `json:"proxyMetadata"`
}

// DecodeProxyConfig reads the defaultConfig of MeshConfig and then a ProxyConfig of
// its own, whose fields go before those. Either may be empty. The error says which
// cannot be read, and where.
func DecodeProxyConfig(mesh, own []byte) (ProxyConfig, error) {
	var m struct {
		DefaultConfig ProxyConfig `json:"defaultConfig"`
	}
	if err := yaml.Unmarshal(mesh, &m); err != nil {
		return ProxyConfig{}, fmt.Errorf("MeshConfig: defaultConfig: %w", err)
	}
	c, before := m.DefaultConfig, maps.Clone(m.DefaultConfig.ProxyMetadata)
	if err := yaml.Unmarshal(own, &c); err != nil { // what it does not say stays
		return ProxyConfig{}, fmt.Errorf("ProxyConfig: %w", err)
	}
	for name, value := range before {
		if _, ok := c.ProxyMetadata[name]; !ok {
			if c.ProxyMetadata == nil {
				c.ProxyMetadata = map[string]string{}
			}
			c.ProxyMetadata[name] = value
		}
	}
	return c, nil
}
