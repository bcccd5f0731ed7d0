package telemetry

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// count of samples of istio_requests_total whose labels have part.
func samples(tb testing.TB, t *Telemetry, name, part string) (n int) {
	tb.Helper()
	for _, s := range gather(tb, t) {
		if strings.HasPrefix(s, name+"{") && strings.Contains(s, part) {
			n++
		}
	}
	return n
}

func TestIdleSeriesExpireUnlessTheirWorkloadsLive(t *testing.T) {
	const name = "istio_requests_total"
	dead, deadServices := map[*mesh.Workload]bool{}, map[*mesh.Service]bool{}
	r := newRig(t, Options{Retain: time.Hour, Live: Living{
		Workload: func(w *mesh.Workload) bool { return !dead[w] },
		Service:  func(s *mesh.Service) bool { return !deadServices[s] },
	}})
	now := noon
	pass := func(d time.Duration) {
		for end := now.Add(d); now.Before(end); {
			now = now.Add(15 * time.Minute)
			r.table.sweep(now)
		}
	}
	rec := exchange()
	r.HTTP(rec)
	pass(24 * time.Hour)
	if got := samples(t, r.Telemetry, name, ""); got != 1 {
		t.Fatalf("both workloads live: %d series after a day, want 1", got)
	}
	if got := len(r.table.entries); got != 0 {
		t.Errorf("%d entries after a day, want 0", got)
	}
	r.HTTP(rec)
	if got := value(t, r.Telemetry, name); got != "2" {
		t.Errorf("counted %s after idling, want 2", got)
	}
	dead[rec.Source] = true
	pass(30 * time.Minute)
	if got := samples(t, r.Telemetry, name, ""); got != 1 {
		t.Errorf("client gone, half an hour: %d series, want 1", got)
	}
	pass(time.Hour)
	if got := samples(t, r.Telemetry, name, ""); got != 0 {
		t.Errorf("client gone, one and a half hours: %d series, want 0", got)
	}
	r.HTTP(rec)
	if got := value(t, r.Telemetry, name); got != "1" {
		t.Errorf("counted %s after expiry, want 1", got)
	}
}

// A node tunnel's series outlive neither their workloads nor their service, though
// the others live: there is nothing that would count in them again.
func TestTunnelSeriesExpireWithWhatTheyAreAbout(t *testing.T) {
	for name, gone := range map[string]func(*TCP) any{
		"client":      func(rec *TCP) any { return rec.Source },
		"destination": func(rec *TCP) any { return rec.Dest },
		"service":     func(rec *TCP) any { return rec.Service },
		"nothing":     func(*TCP) any { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			var dead any
			r := newRig(t, Options{Program: Ztunnel, Live: Living{
				Workload: func(w *mesh.Workload) bool { return any(w) != dead },
				Service:  func(s *mesh.Service) bool { return any(s) != dead },
			}})
			rec := connection(BySource)
			r.Open(rec)
			r.Close(rec)
			dead = gone(rec)
			now := noon
			left := func() int {
				now = now.Add(15 * time.Minute)
				r.table.sweep(now)
				return samples(t, r.Telemetry, "istio_tcp_connections_opened_total", "")
			}
			for range 4 {
				if left() != 1 {
					t.Fatal("gone within the hour")
				}
			}
			if got, want := left(), 0; got != want && dead != nil {
				t.Errorf("%d series after an hour and a quarter, want %d", got, want)
			} else if dead == nil && got != 1 {
				t.Error("gone, though all that it is about lives")
			}
		})
	}
}

func TestSeriesInUseDoNotExpire(t *testing.T) {
	r := newRig(t, Options{Retain: time.Hour})
	now := noon
	open := connection(ByWaypoint)
	r.Open(open)
	for range 50 {
		now = now.Add(15 * time.Minute)
		r.HTTP(exchange())
		r.table.sweep(now)
	}
	if got := value(t, r.Telemetry, "istio_requests_total"); got != "50" {
		t.Errorf("istio_requests_total = %s, want 50", got)
	}
	open.Sent = 9
	r.Flush(open)
	if got := value(t, r.Telemetry, "istio_tcp_sent_bytes_total"); got != "9" {
		t.Errorf("bytes of a connection that idled: %s, want 9", got)
	}
	r.Close(open)
	for range 9 {
		now = now.Add(15 * time.Minute)
		r.table.sweep(now)
	}
	if got := r.table.len(); got != 0 {
		t.Errorf("%d series after all was over, want 0", got)
	}
}

// The pods of a deployment share series, and each new version of a workload
// counts on in those of the last.
func TestPodsShareSeries(t *testing.T) {
	r := newRig(t, Options{})
	for i := range 5 {
		pod := *reviews
		pod.Name = fmt.Sprintf("reviews-v1-%d", i)
		rec := exchange()
		rec.Dest = &pod
		r.HTTP(rec)
	}
	if got := value(t, r.Telemetry, "istio_requests_total"); got != "5" {
		t.Errorf("istio_requests_total = %s, want 5", got)
	}
}

func TestSeriesBeyondTheCapOverflow(t *testing.T) {
	r := newRig(t, Options{MaxSeries: 10})
	send := func(i, status int) {
		rec := exchange()
		rec.Status = status
		rec.Source = &mesh.Workload{Name: fmt.Sprint("client-", i), Namespace: "n"}
		r.HTTP(rec)
	}
	for i := range 100 {
		send(i, 200)
	}
	send(100, 503)
	if got := samples(t, r.Telemetry, "istio_requests_total", "client-"); got != 10 {
		t.Errorf("%d series of clients, want 10", got)
	}
	overflow := `source_workload="overflow"`
	if got := value(t, r.Telemetry, "istio_requests_total", overflow, `response_code="200"`, `destination_service="overflow"`, `reporter="waypoint"`); got != "90" {
		t.Errorf("overflow: %s, want 90", got)
	}
	if got := value(t, r.Telemetry, "istio_requests_total", overflow, `response_code="503"`); got != "1" {
		t.Errorf("overflow of errors: %s, want 1", got)
	}
	if got := value(t, r.Telemetry, "waystone_telemetry_series_overflow_total"); got != "91" {
		t.Errorf("waystone_telemetry_series_overflow_total = %s, want 91", got)
	}
	// A client that has its series keeps it, in its next version too.
	send(3, 200)
	if got := value(t, r.Telemetry, "istio_requests_total", `source_workload="client-3"`); got != "2" {
		t.Errorf("known client: %s, want 2", got)
	}
}

func TestRecordsAreStringsOfTheCall(t *testing.T) {
	r := newRig(t, Options{})
	name := []byte("api.example.com")
	rec := exchange()
	rec.Service, rec.ServiceHost = nil, mesh.Hostname{Host: unsafe.String(unsafe.SliceData(name), len(name))}
	r.HTTP(rec)
	copy(name, "xxxxxxxxxxxxxxx")
	value(t, r.Telemetry, "istio_requests_total", `destination_service="api.example.com"`)
	rec.ServiceHost.Host = "api.example.com"
	r.HTTP(rec)
	if got := value(t, r.Telemetry, "istio_requests_total"); got != "2" {
		t.Errorf("istio_requests_total = %s, want 2", got)
	}
}

// Nothing is lost while series come, go and are scraped.
func TestConcurrentRecords(t *testing.T) {
	r := newRig(t, Options{Retain: time.Nanosecond, Live: Living{
		Workload: func(*mesh.Workload) bool { return true },
		Service:  func(*mesh.Service) bool { return true },
	}})
	const loops, each = 4, 2000
	pods := make([]*mesh.Workload, 50)
	for i := range pods {
		pods[i] = &mesh.Workload{Name: fmt.Sprint("pod-", i), OwnerName: fmt.Sprint("owner-", i%10), Namespace: "n"}
	}
	var all sync.WaitGroup
	for range loops {
		all.Go(func() {
			for i := range each {
				rec := exchange()
				rec.Source = pods[i%len(pods)]
				r.HTTP(rec)
				tcp := connection(ByWaypoint)
				tcp.Source = rec.Source
				r.Open(tcp)
				tcp.Sent = 1
				r.Close(tcp)
			}
		})
	}
	done := make(chan struct{})
	var sweeper sync.WaitGroup
	sweeper.Go(func() {
		for now := noon; ; now = now.Add(time.Second) {
			select {
			case <-done:
				return
			default:
				r.table.sweep(now)
				gather(t, r.Telemetry)
			}
		}
	})
	all.Wait()
	close(done)
	sweeper.Wait()
	for _, name := range []string{"istio_requests_total", "istio_tcp_sent_bytes_total"} {
		total := 0
		for i := range 10 {
			var n int
			fmt.Sscan(value(t, r.Telemetry, name, fmt.Sprintf(`source_workload="owner-%d"`, i)), &n)
			total += n
		}
		if total != loops*each {
			t.Errorf("%s: %d counted, want %d", name, total, loops*each)
		}
	}
}
