package capture

import (
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

func TestForPod(t *testing.T) {
	base := Options{DNS: true, IPv6: true}
	ten := netip.MustParsePrefix("10.0.0.0/8")
	for _, r := range []struct {
		name        string
		annotations map[string]string
		want        func(*Options)
		err         string // in it; "": none
	}{
		{"none", nil, func(*Options) {}, ""},
		{"others", map[string]string{"a": "b"}, func(*Options) {}, ""},
		{"bypass", map[string]string{BypassInbound: "true"}, func(o *Options) { o.InboundBypass = true }, ""},
		{"no bypass", map[string]string{BypassInbound: "false"}, func(*Options) {}, ""},
		{"bypass misspelt", map[string]string{BypassInbound: "yes"}, func(*Options) {}, `annotation ambient.istio.io/bypass-inbound-capture: "yes": want true or false`},
		{"no DNS", map[string]string{DNSCapture: "false"}, func(o *Options) { o.DNS = false }, ""},
		{"interfaces", map[string]string{RerouteInterfaces: " eth1, br0,,eth1"}, func(o *Options) { o.RerouteInterfaces = []string{"eth1", "br0"} }, ""},
		{"bad interface", map[string]string{RerouteInterfaces: "eth1,a/b"}, func(*Options) {}, `"a/b" is no interface name`},
		{"long interface", map[string]string{RerouteInterfaces: "eth1-is-very-long"}, func(*Options) {}, `longer than an interface name may be`},
		{"lo", map[string]string{RerouteInterfaces: "lo"}, func(*Options) {}, `"lo" cannot be rerouted`},
		{"ports", map[string]string{ExcludeInboundPorts: "80, 443", ExcludeOutboundPorts: "3306", IncludeInboundPorts: "8080,8080", IncludeOutboundPorts: "1"}, func(o *Options) {
			o.ExcludeInboundPorts, o.ExcludeOutboundPorts, o.IncludeInboundPorts, o.IncludeOutboundPorts = []uint16{80, 443}, []uint16{3306}, []uint16{8080}, []uint16{1}
		}, ""},
		{"all ports", map[string]string{IncludeInboundPorts: "*"}, func(*Options) {}, ""},
		{"no ports", map[string]string{IncludeInboundPorts: ""}, func(o *Options) { o.IncludeInboundPorts = []uint16{} }, ""},
		{"all ports excluded", map[string]string{ExcludeInboundPorts: "*"}, func(*Options) {}, `annotation traffic.sidecar.istio.io/excludeInboundPorts: "*": "*" is no port`},
		{"port 0", map[string]string{ExcludeInboundPorts: "80,0"}, func(*Options) {}, `"0" is no port, 1 to 65535`},
		{"port too large", map[string]string{ExcludeInboundPorts: "65536"}, func(*Options) {}, `"65536" is no port`},
		{"ranges", map[string]string{IncludeOutboundCIDRs: "10.0.0.0/8", ExcludeOutboundCIDRs: "10.1.2.3/8,fd00::/8"}, func(o *Options) {
			o.IncludeOutboundCIDRs, o.ExcludeOutboundCIDRs = []netip.Prefix{ten}, []netip.Prefix{ten, netip.MustParsePrefix("fd00::/8")}
		}, ""},
		{"all ranges", map[string]string{IncludeOutboundCIDRs: "*"}, func(*Options) {}, ""},
		{"no ranges", map[string]string{IncludeOutboundCIDRs: ""}, func(o *Options) { o.IncludeOutboundCIDRs = []netip.Prefix{} }, ""},
		{"address", map[string]string{ExcludeOutboundCIDRs: "10.0.0.1"}, func(*Options) {}, `"10.0.0.1" is no range`},
		{"one bad, one good", map[string]string{ExcludeOutboundCIDRs: "10.0.0.0/33", ExcludeOutboundPorts: "1"}, func(o *Options) { o.ExcludeOutboundPorts = []uint16{1} }, `excludeOutboundIPRanges: "10.0.0.0/33"`},
	} {
		t.Run(r.name, func(t *testing.T) {
			want := base
			r.want(&want)
			got, err := ForPod(base, r.annotations)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("options are %+v, want %+v", got, want)
			}
			if (err == nil) != (r.err == "") || err != nil && !strings.Contains(err.Error(), r.err) {
				t.Errorf("error is %v, want %q", err, r.err)
			}
			if err := got.Check(); err != nil {
				t.Errorf("Check of what ForPod returns: %v", err)
			}
		})
	}
}

func TestListsAreBounded(t *testing.T) {
	var many []string
	for n := range MaxEntries + 1 {
		many = append(many, strconv.Itoa(n+1))
	}
	if _, err := ForPod(Options{}, map[string]string{ExcludeInboundPorts: strings.Join(many, ",")}); err == nil || !strings.Contains(err.Error(), "more than 256 entries") {
		t.Errorf("ForPod of too many: %v", err)
	}
	if _, err := ForPod(Options{}, map[string]string{ExcludeInboundPorts: strings.Join(many[1:], ",")}); err != nil {
		t.Error(err)
	}
	o := Options{ExcludeInboundPorts: make([]uint16, MaxEntries+1)}
	if err := o.Check(); err == nil || !strings.Contains(err.Error(), "ExcludeInboundPorts has 257 entries") {
		t.Errorf("Check of too many: %v", err)
	}
}

func TestCheckNamesEveryField(t *testing.T) {
	o := Options{
		ExcludeOutboundCIDRs: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/8"), {}},
		RerouteInterfaces:    []string{"a b"},
	}
	err := o.Check()
	for _, want := range []string{"10.1.0.0/8 is no range", "invalid Prefix is no range", `"a b" is no interface name`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Check: %v, want %q in it", err, want)
		}
	}
}

func FuzzForPod(f *testing.F) {
	for _, s := range []string{"", "*", "80,443", "10.0.0.0/8, ::/0", "true", "eth0", "\x00", "::ffff:1.2.3.4/100"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a := map[string]string{}
		for _, name := range []string{BypassInbound, DNSCapture, RerouteInterfaces, IncludeInboundPorts, ExcludeInboundPorts, IncludeOutboundPorts, ExcludeOutboundPorts, IncludeOutboundCIDRs, ExcludeOutboundCIDRs} {
			a[name] = s
		}
		o, _ := ForPod(Options{}, a)
		if err := o.Check(); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	})
}
