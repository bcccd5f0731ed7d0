package ztunnelcmd

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/flags"
	"github.com/waystone-mesh/waystone/internal/netns"
	"github.com/waystone-mesh/waystone/internal/program"
	"github.com/waystone-mesh/waystone/internal/zds"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// modeOptions are the flags about how traffic comes to a node tunnel.
type modeOptions struct {
	mode      string // shared, dedicated, socks; "": see modeFor
	socket    string
	portReuse bool
	mark      uint32
	pod       *zds.Pod // the one of mode dedicated
	account   string   // our own
}

// The modes, the first two as Istio's PROXY_MODE has them.
const (
	shared    = "shared"
	dedicated = "dedicated"
	socks     = "socks"
)

func (o *modeOptions) define(set *pflag.FlagSet) {
	flags.Define(set, &o.mode, "proxy-mode", "MODE", "", parseMode, `how traffic comes to us. "shared": that of the node's pods is redirected in their network namespaces, of which istio-cni tells. "dedicated": that of one pod is, in our own. "socks": pods hand it over by SOCKS5. Without it, shared if it is said how (--cni-socket, INPOD_ENABLED) or the arguments are Istio's, else socks`, "PROXY_MODE")
	flags.Define(set, &o.socket, "cni-socket", "PATH", "/var/run/ztunnel/ztunnel.sock", flags.Text, "where istio-cni, or who stands in for it, tells of pods", "INPOD_UDS")
	flags.Define(set, &o.portReuse, "port-reuse", "bool", "true", flags.Bool, "share the ports in pods with a node tunnel that takes over from us, or from which we do", "INPOD_PORT_REUSE")
	flags.Define(set, &o.mark, "packet-mark", "NUMBER", "1337", parseMark, "by which the rules in pods know our own packets; 1337 unless the rules were changed", "PACKET_MARK")
	flags.Define(set, &o.pod, "proxy-workload", "POD", "", parseWorkload, "the pod of mode dedicated: namespace/name/service-account", "PROXY_WORKLOAD_INFO")
	flags.Define(set, &o.account, "service-account", "NAME", "", flags.Text, "our own. With it, and --pod-name and --pod-namespace, our metrics can be asked for over HBONE in mode shared, by whom policy lets", "SERVICE_ACCOUNT")
}

func parseMode(s string) (string, error) {
	switch s = strings.ToLower(s); s {
	case shared, dedicated, socks:
		return s, nil
	}
	return "", errors.New("is none of shared, dedicated and socks")
}

func parseMark(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil || n == 0 {
		return 0, errors.New("is not a number from 1 to 4294967295")
	}
	return uint32(n), nil
}

func parseWorkload(s string) (*zds.Pod, error) {
	part := strings.Split(s, "/")
	if len(part) != 3 || part[0] == "" || part[1] == "" || part[2] == "" {
		return nil, errors.New("is not of the form namespace/name/service-account")
	}
	return &zds.Pod{UID: s, Namespace: part[0], Name: part[1], ServiceAccount: part[2]}, nil
}

// modeFor returns the mode. Istio's chart does not name one: there it is shared.
func (o *options) modeFor(args []string) string {
	m := &o.capture
	switch {
	case m.mode != "":
		return m.mode
	case o.enroll.on() || len(args) > 0 || o.Given("cni-socket") || os.Getenv("INPOD_ENABLED") == "true":
		return shared
	}
	return socks
}

// inside reports whether pods are served in their network namespaces.
func (o *modeOptions) inside() bool { return o.mode == shared || o.mode == dedicated }

// inPod returns how pods are served in their network namespaces, or nil if they
// are not.
func (o *options) inPod(p *program.Process) (*ztunnel.InPod, error) {
	m := &o.capture
	switch {
	case m.mode != shared && o.enroll.on():
		return nil, errors.New("flag --enroll: is for mode shared")
	case !m.inside():
		return nil, o.keepAlive.outside(o.Given)
	case m.mode == dedicated && m.pod == nil:
		return nil, errors.New("flag --proxy-workload: is required in mode dedicated: namespace/name/service-account of the pod")
	}
	if err := o.capable(); err != nil {
		return nil, fmt.Errorf("flag --proxy-mode %s: %w", m.mode, err)
	}
	in := &ztunnel.InPod{Mark: m.mark, NoMark: !o.marked(), OnlyOne: !m.portReuse, NoIPv6: !o.dns.ipv6, AnyNode: m.mode == dedicated, AskOurs: len(o.dns.upstream) > 0, Ready: o.readiness(p)}
	in.KeepAlive, in.UserTimeout = o.keepAlive.config()
	if o.dns.inPods(o) {
		d, err := o.resolver(p)
		if err != nil {
			return nil, err
		}
		in.DNS = &d
	}
	return in, nil
}

// readiness returns what has the program be ready as long as all pods are served.
func (o *options) readiness(p *program.Process) func(bool) {
	const name = "pods of the CNI's agent"
	done := p.Ready.Task(name)
	return func(ready bool) {
		if ready {
			done()
			return
		}
		done = p.Ready.Task(name)
	}
}

// marked reports whether our packets bear a mark: in our own network namespace
// only if it is given, as with Istio, where rules may go by who sends.
func (o *options) marked() bool { return o.capture.mode == shared || o.Given("packet-mark") }

// capable reports whether we lack a right that serving pods takes, before there
// are any.
func (o *options) capable() error {
	var here *netns.Netns
	if o.capture.mode == shared {
		ns, err := netns.Open("/proc/self/ns/net")
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := ns.Do(func() error { return nil }); err != nil {
			return fmt.Errorf("network namespaces cannot be entered: is CAP_SYS_ADMIN missing? %w", err)
		}
	}
	if !o.marked() {
		return nil
	}
	ln, err := here.Listen(netip.MustParseAddrPort("127.0.0.1:0"), netns.SocketOptions{Mark: o.capture.mark})
	if err != nil {
		return fmt.Errorf("sockets cannot be marked: is CAP_NET_ADMIN missing? %w", err)
	}
	return ln.Close()
}

// hear has z serve the pods that it is told of, until the program ends.
func (o *options) hear(p *program.Process, z *ztunnel.Ztunnel) error {
	m := &o.capture
	switch m.mode {
	case dedicated:
		if err := z.Add(*m.pod); err != nil {
			p.Log.Scope("proxy").Warn("the pod is not served yet", "error", err)
		}
		z.Synced()
	case shared:
		o.serveSelf(p, z)
		if o.enroll.on() {
			return o.enrolled(p, z)
		}
		c, err := zds.New(zds.Options{Path: m.socket, Handler: z, Log: p.Log.Scope("inpod"), Connected: z.Connected})
		if err != nil {
			return err
		}
		p.Go(func() error { return c.Run(p.Context()) })
	}
	return nil
}

// serveSelf has our own pod reached over HBONE, if we know which it is.
func (o *options) serveSelf(p *program.Process, z *ztunnel.Ztunnel) {
	i := &o.xds
	if i.pod == "" || o.capture.account == "" {
		return
	}
	err := z.ServeSelf(zds.Pod{UID: i.namespace + "/" + i.pod, Name: i.pod, Namespace: i.namespace, ServiceAccount: o.capture.account})
	if err != nil { // nobody's traffic depends on it
		p.Log.Scope("proxy").Warn("our own pod is not reached over HBONE", "error", err)
	}
}
