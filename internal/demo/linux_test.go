//go:build linux

package demo

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/examples/bookinfo"
)

func TestEveryPortIsListedOnce(t *testing.T) {
	list := ports()
	slices.Sort(list)
	if n := len(slices.Compact(slices.Clone(list))); n != len(list) {
		t.Errorf("%d of %d are different", n, len(list))
	}
	for _, want := range []string{"127.244.1.24:9080", "127.244.2.9:15080", "127.244.1.50:15008", "127.244.2.5:8080", "127.244.1.1:15021"} {
		if !slices.Contains(list, want) {
			t.Errorf("%s is not listed", want)
		}
	}
}

func TestAPortInUseIsNamed(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := free("127.0.0.1:0"); err != nil {
		t.Errorf("any port: %v", err)
	}
	err = free("127.0.0.1:0", ln.Addr().String())
	if err == nil || !strings.Contains(err.Error(), ln.Addr().String()) || !strings.Contains(err.Error(), "another demo") {
		t.Errorf("got %v", err)
	}
}

// shell is a family of shells.
func shell(t *testing.T) *family { return newFamily("/bin/sh", t.TempDir()) }

func TestChildrenEndInOrder(t *testing.T) {
	f := shell(t)
	good, err := f.start("good", "", "-c", `trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := good.log.await(t.Context(), 0, pattern{"up"}); err != nil {
		t.Fatal(err)
	}
	if err := f.end(good); err != nil {
		t.Error(err)
	}
	if got := good.tail(); got != "up\nbye" {
		t.Errorf("got %q", got)
	}
	if err := f.close(); err != nil {
		t.Error(err)
	}
}

func TestAChildThatEndsOtherwiseIsAnError(t *testing.T) {
	f := shell(t)
	gone, err := f.start("gone", "http://127.0.0.1:1/", "-c", "echo why; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	if err := awaitReady(t.Context(), gone); err == nil || !strings.Contains(err.Error(), "gone has ended: exit status 3") || !strings.Contains(err.Error(), "why") {
		t.Errorf("got %v", err)
	}
	bad, err := f.start("bad", "", "-c", `trap 'exit 4' TERM; echo up; while :; do sleep 0.01; done`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bad.log.await(t.Context(), 0, pattern{"up"}); err != nil {
		t.Fatal(err)
	}
	err = f.close()
	for _, want := range []string{"bad: exit status 4", "gone had ended already: exit status 3"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestAChildIsReadyWhenItAnswers(t *testing.T) {
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked < 3 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer srv.Close()
	f := shell(t)
	c, err := f.start("c", srv.URL, "-c", `trap 'exit 0' TERM; while :; do sleep 0.01; done`)
	if err != nil {
		t.Fatal(err)
	}
	if err := awaitReady(t.Context(), c); err != nil || asked != 3 {
		t.Errorf("got %v after %d questions", err, asked)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.ready = "http://127.0.0.1:1/"
	if err := awaitReady(ctx, c); err == nil {
		t.Error("somebody answers at port 1")
	}
	_ = f.close() // the shell may not have set its trap yet
}

func TestManifestsAreReplacedWhole(t *testing.T) {
	d := &demo{printer: &printer{out: io.Discard}}
	if err := d.prepare(); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(d.dir)
	if err := d.apply("l4-policy.yaml", viewer); err != nil {
		t.Fatal(err)
	}
	if err := d.apply("l7-policy.yaml", viewer); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(d.config)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != "00-mesh.yaml 01-bookinfo.yaml bookinfo-gateway.yaml load.yaml productpage-viewer.yaml" {
		t.Errorf("got %s", got)
	}
	if text, _ := os.ReadFile(d.config + "/" + viewer); !strings.Contains(string(text), "methods") {
		t.Errorf("got %s", text)
	}
	if err := d.rm(viewer); err != nil {
		t.Error(err)
	}
	if err := d.copy("nothing.yaml", "x.yaml"); err == nil {
		t.Error("there is a manifest called nothing")
	}
}

// A scripted round tripper gives answers in turn, the last one for ever.
type scripted []string

func (s *scripted) RoundTrip(*http.Request) (*http.Response, error) {
	body := (*s)[0]
	if len(*s) > 1 {
		*s = (*s)[1:]
	}
	w := httptest.NewRecorder()
	if body == "403" {
		w.WriteHeader(http.StatusForbidden)
	}
	_, _ = w.WriteString(body)
	return w.Result(), nil
}

func TestLoadCountsWhatIsLost(t *testing.T) {
	_, cancel := context.WithCancel(t.Context())
	l := &load{stop: cancel, kinds: []*kind{{name: "kind"}}}
	s := &scripted{"Book Details", "403", "Book Details"}
	for range 5 {
		l.one(t.Context(), l.kinds[0], s, page)
	}
	kinds, lost := l.finish()
	if kinds[0].sent != 5 || kinds[0].lost != 1 || len(lost) != 1 || !strings.Contains(lost[0], `kind: 403 "403"`) {
		t.Errorf("got %+v, %q", kinds[0], lost)
	}
}

func TestTheVersionOfReviewsIsRead(t *testing.T) {
	for body, want := range map[string]string{`{"podname":"reviews-v2"}`: "reviews-v2", "403": "", "{": ""} {
		a := bookinfo.AskOver(t.Context(), &scripted{body}, http.MethodGet, page)
		if got := version(a); got != want {
			t.Errorf("%s: got %q, want %q", body, got, want)
		}
	}
}

func TestKeepTellsWhatToTry(t *testing.T) {
	var out strings.Builder
	d := &demo{printer: &printer{out: &out}, ingress: outside{"127.244.2.5:8080"}, waypoint: &child{}, family: &family{all: []*child{{log: logFile{"z", "/logs/z.log"}}}}}
	d.keep()
	for _, want := range []string{
		"curl --socks5-hostname 127.244.2.9:15080 -X DELETE http://productpage:9080/productpage",
		"curl http://127.244.2.5:8080/productpage",
		"http://127.244.1.50:15020/stats/prometheus",
		"http://127.244.1.1:15000/config_dump",
		"/logs/z.log",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "127.244.2.50") {
		t.Error("the waypoint of reviews is told of and is not there")
	}
}
