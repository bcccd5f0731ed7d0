package manifest

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestResolv(t *testing.T) {
	o := Options{ClusterDomain: "cluster.local"}
	config := func(ndots string, searches ...string) *corev1.PodDNSConfig {
		return &corev1.PodDNSConfig{Searches: searches, Options: []corev1.PodDNSConfigOption{{Name: "edns0"}, {Name: "ndots", Value: &ndots}}}
	}
	for _, row := range []struct {
		policy corev1.DNSPolicy
		config *corev1.PodDNSConfig
		want   string
	}{
		{"", nil, "<nil>"},
		{corev1.DNSClusterFirst, nil, "<nil>"},
		{corev1.DNSClusterFirstWithHostNet, nil, "<nil>"},
		{corev1.DNSDefault, nil, "&{[] 1}"},
		{corev1.DNSNone, config("2", "Corp.Example.", "", "lan"), "&{[corp.example lan] 2}"},
		{corev1.DNSNone, &corev1.PodDNSConfig{Searches: []string{"lan"}}, "&{[lan] 1}"},
		{corev1.DNSClusterFirst, config("many", "lan"), "&{[shop.svc.cluster.local svc.cluster.local cluster.local lan] 5}"},
		{corev1.DNSClusterFirst, config("100"), "&{[shop.svc.cluster.local svc.cluster.local cluster.local] 15}"},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Spec: corev1.PodSpec{DNSPolicy: row.policy, DNSConfig: row.config}}
		if got := fmt.Sprint(o.resolv(p)); got != row.want {
			t.Errorf("%s %v: got %s, want %s", row.policy, row.config, got, row.want)
		}
	}
}
