package waypoint_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/waypoint"
)

// TestConsulted asks about every request for 10 ms, with 8 KiB of its content
// seen, and then has endpoints that do not listen decline it.
func TestConsulted(t *testing.T) {
	for _, loopback := range []bool{false, true} {
		m := meshtest.With(t, meshtest.Options{Loopback: loopback, Waypoint: func(o *waypoint.Options) {
			o.Consultant = &waypoint.Consultant{Content: 8 << 10, Ask: func(_ *l7.Request, content []byte, answer func(error)) func() {
				timer := time.AfterFunc(10*time.Millisecond, func() {
					var err error
					if len(content) < 8<<10 || strings.HasPrefix(string(content), "forbidden") {
						err = errors.New("not that")
					}
					answer(err)
				})
				return func() { timer.Stop() }
			}}
		}})
		m.Workload("web")
		replicas(m, 3, nil, meshtest.Echo)
		m.Service("items", 80).Waypoint()
		content := strings.Repeat("12345678", 2<<10)
		for _, c := range []*meshtest.Client{m.From("web"), m.FromHTTP2("web")} {
			for range 10 {
				c.Post("http://items/", content).Want(200).WantBody(content)
			}
			c.Post("http://items/", "forbidden"+content).Want(403)
			c.Post("http://items/", "short").Want(403)
		}
		m.WaitMetric(`istio_requests_total{reporter="waypoint",response_code="403",response_flags="UAEX"}`, 4)
	}
}
