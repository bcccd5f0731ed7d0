package admin

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	"net/url"
	"strconv"
)

// The profiles, with the parameters that Istio's node tunnel has for its own.
func handleProfiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", cpuProfile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /debug/pprof/heap/profiling", heapProfiling)
	mux.HandleFunc("POST /debug/pprof/heap/profiling", heapProfiling)
}

// cpuProfile takes a profile of as many seconds as it is asked to: 1 to 300, and
// 10 when it is not said.
func cpuProfile(w http.ResponseWriter, r *http.Request) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	seconds := uint64(10)
	if err == nil && values.Has("seconds") {
		seconds, err = between(values.Get("seconds"), 300)
		if err != nil {
			err = fmt.Errorf("seconds: %w", err)
		}
	}
	if err == nil && values.Has("frequency") {
		frequency, bad := between(values.Get("frequency"), 1000)
		if err = bad; err != nil {
			err = fmt.Errorf("frequency: %w", err)
		} else if frequency != 100 {
			err = fmt.Errorf("frequency: %d: Go takes 100 samples a second, and no other number", frequency)
		}
	}
	if err != nil {
		http.Error(w, "profile: "+err.Error(), http.StatusBadRequest)
		return
	}
	r = r.Clone(r.Context())
	r.URL.RawQuery, r.Form = "seconds="+strconv.FormatUint(seconds, 10), nil
	pprof.Profile(w, r)
}

func between(s string, most uint64) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || n > most {
		return 0, fmt.Errorf("%q is not a number from 1 to %d", s, most)
	}
	return n, nil
}

// heapProfiling answers who would turn the sampling of allocations on: it is.
func heapProfiling(w http.ResponseWriter, r *http.Request) {
	switch v := r.URL.Query().Get("activate"); v {
	case "", "true":
		fmt.Fprintln(w, "heap profiling active: true")
	case "false":
		http.Error(w, "heap/profiling: it is part of Go's allocator, at a sample for every 512 KiB, and stays on", http.StatusBadRequest)
	default:
		http.Error(w, fmt.Sprintf("heap/profiling: activate: %q is neither true nor false", v), http.StatusBadRequest)
	}
}
