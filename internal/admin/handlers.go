package admin

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/waystone-mesh/waystone/telemetry"
)

const index = `<!DOCTYPE html>
<title>Waystone</title>
<h1>Waystone</h1>
<ul>
<li><a href="config_dump">config_dump</a>: the configuration in force
<li><a href="loops">loops</a>: what each loop is doing and has done
<li><a href="authz/recent">authz/recent</a>: what policy has just refused, and why; <code>?allowed=true</code>, <code>?principal=</code>, <code>?source=</code>, <code>?namespace=</code>, <code>?service=</code>, <code>?path=/x*</code>, <code>?method=</code>, <code>?policy=</code>, <code>?since=30s</code>, <code>?limit=</code>, <code>?format=text</code>
<li>logging (POST): levels; <code>?level=debug</code>, <code>?level=xds:debug</code>, <code>?reset</code>
<li>quitquitquit (POST): stop
<li><a href="debug/pprof/">debug/pprof</a>: profiles; <code>debug/pprof/profile?seconds=10</code>
</ul>
`

// adminHandler serves the administration port.
func adminHandler(o *Options) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, index)
	})
	mux.HandleFunc("GET /config_dump", dumpHandler("config_dump", o.ConfigDump))
	if o.Loops != nil {
		mux.HandleFunc("GET /loops", dumpHandler("loops", o.Loops))
	}
	if o.Recent != nil {
		mux.HandleFunc("GET /authz/recent", recentHandler(o.Recent))
	}
	if o.Log != nil {
		mux.HandleFunc("POST /logging", loggingHandler(o.Log))
	}
	if o.Quit != nil {
		quit := sync.OnceFunc(o.Quit)
		mux.HandleFunc("POST /quitquitquit", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(w, "shutdown now")
			quit()
		})
	}
	handleProfiles(mux)
	return http.NewCrossOriginProtection().Handler(localOnly(mux))
}

// localOnly refuses requests for another host than this one. With the check of
// origins it keeps a page in somebody's browser from reaching through a
// forwarded port, under a name that resolves to it.
func localOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err != nil && host != "localhost" {
			http.Error(w, "admin: the host must be localhost or an address", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// dumpHandler shows what dump returns, as JSON.
func dumpHandler(name string, dump func() any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		var v any = struct{}{}
		if dump != nil {
			v = dump()
		}
		show(w, name, v)
	}
}

// show answers with v as JSON.
func show(w http.ResponseWriter, name string, v any) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, fmt.Sprintf("%s: %v", name, err), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(append(b, '\n'))
}

// recentHandler shows the last decisions of policy. What is in them comes from
// requests, so no browser is to guess what it is.
func recentHandler(recent func(url.Values) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		values, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			http.Error(w, fmt.Sprintf("authz/recent: %v", err), http.StatusBadRequest)
			return
		}
		v, err := recent(values)
		if err != nil {
			http.Error(w, fmt.Sprintf("authz/recent: %v", err), http.StatusBadRequest)
			return
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if text, ok := v.(string); ok {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			io.WriteString(w, text)
			return
		}
		show(w, "authz/recent", v)
	}
}

// loggingHandler changes the levels if it is asked to, and in any case says what
// they are.
func loggingHandler(log *telemetry.Log) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		var err error
		if query.Has("reset") {
			err = log.Reset()
		}
		// istioctl asks for what the levels are with a level that is empty, and
		// sends one beside reset.
		if level := query.Get("level"); level != "" && err == nil {
			err = log.SetLevel(level)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "current log level is %s\n", log)
	}
}

// metricsHandler serves the same on the path that Istio's annotations name and
// on Prometheus' own default.
func metricsHandler(g prometheus.Gatherer) http.Handler {
	if g == nil {
		g = prometheus.Gatherers{}
	}
	h := promhttp.HandlerFor(g, promhttp.HandlerOpts{
		EnableOpenMetrics: true,
		// One bad sample must not hide every other.
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: 4,
	})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", h)
	mux.Handle("GET /stats/prometheus", h)
	return mux
}

func healthHandler(r *Ready) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /healthz/ready", r)
	return mux
}
