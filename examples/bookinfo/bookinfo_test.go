package bookinfo

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

// A network answers requests by the handler of their host, as the mesh would.
type network map[string]http.Handler

func (n network) RoundTrip(r *http.Request) (*http.Response, error) {
	h := n[r.URL.Hostname()]
	if h == nil || r.URL.Port() != "9080" {
		return nil, http.ErrHandlerTimeout
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result(), nil
}

// shop is the whole of bookinfo, with a version of reviews.
func shop(version string) network {
	n := network{}
	n["ratings"] = Handler("ratings", "v1", "ratings-v1", n)
	n["details"] = Handler("details", "v1", "details-v1", n)
	n["reviews"] = Handler("reviews", version, "reviews-"+version, n)
	n["productpage"] = Handler("productpage", "v1", "productpage-v1", n)
	return n
}

func get(t *testing.T, n network, url string) (int, string) {
	t.Helper()
	a := AskOver(t.Context(), n, http.MethodGet, url)
	if a.Err != nil {
		t.Fatal(a.Err)
	}
	return a.Status, string(a.Body)
}

func TestThePageHasStarsOfTheVersionsColour(t *testing.T) {
	for version, want := range map[string]string{"v1": "", "v2": `<span class="black">★★★★★</span>`, "v3": `<span class="red">★★★★☆</span>`} {
		status, page := get(t, shop(version), "http://productpage:9080/productpage")
		if status != 200 || !Whole([]byte(page)) || !strings.Contains(page, "<title>Simple Bookstore App</title>") {
			t.Errorf("%s: got %d\n%s", version, status, page)
		}
		if want != "" && !strings.Contains(page, want) || want == "" && strings.Contains(page, "★") {
			t.Errorf("%s: want stars %q\n%s", version, want, page)
		}
		if !strings.Contains(page, "served by reviews-"+version) {
			t.Errorf("%s: the page does not say which reviews it shows", version)
		}
	}
}

func TestAPageThatLacksAPartIsThereAndNotWhole(t *testing.T) {
	for _, missing := range []string{"details", "reviews", "ratings"} {
		n := shop("v2")
		delete(n, missing)
		status, page := get(t, n, "http://productpage:9080/productpage")
		if status != 200 || Whole([]byte(page)) || !strings.Contains(page, unavailable) {
			t.Errorf("without %s: got %d\n%s", missing, status, page)
		}
	}
	n := shop("v1")
	n["details"] = http.NotFoundHandler()
	if _, page := get(t, n, "http://productpage:9080/productpage"); Whole([]byte(page)) {
		t.Error("a 404 is no details")
	}
}

func TestServicesSpeakJSON(t *testing.T) {
	n := shop("v2")
	for url, want := range map[string]string{
		"http://details:9080/details/7":              `"id":"7"`,
		"http://ratings:9080/ratings/0":              `"Reviewer1":5`,
		"http://reviews:9080/reviews/0":              `"podname":"reviews-v2"`,
		"http://productpage:9080/api/v1/products":    `"The Comedy of Errors"`,
		"http://productpage:9080/health":             `"productpage is healthy"`,
		"http://ratings:9080/health":                 `"ratings is healthy"`,
		"http://reviews:9080/reviews/0?with=a+query": `"color":"black"`,
	} {
		if status, body := get(t, n, url); status != 200 || !strings.Contains(body, want) || !json.Valid([]byte(body)) {
			t.Errorf("%s: got %d %s, want %s", url, status, body, want)
		}
	}
	if status, _ := get(t, n, "http://details:9080/reviews/0"); status != 404 {
		t.Errorf("details has no reviews: got %d", status)
	}
	if status, page := get(t, n, "http://productpage:9080/"); status != 200 || !strings.Contains(page, "<title>Simple Bookstore App</title>") {
		t.Errorf("index: got %d %s", status, page)
	}
}

func TestTraceContextIsPassedOn(t *testing.T) {
	n := shop("v2")
	seen := map[string]http.Header{}
	for name, h := range n {
		n[name] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if name != "productpage" {
				seen[name] = r.Header
			}
			h.ServeHTTP(w, r)
		})
	}
	delete(n, "details") // it would be asked at the same time
	r := httptest.NewRequest(http.MethodGet, "http://productpage:9080/productpage", nil)
	for _, name := range traced {
		r.Header.Set(name, "of "+name)
	}
	r.Header.Set("X-Mine", "1")
	n["productpage"].ServeHTTP(httptest.NewRecorder(), r)
	for _, service := range []string{"reviews", "ratings"} {
		for _, name := range traced {
			if got := seen[service].Get(name); got != "of "+name {
				t.Errorf("%s: %s: got %q", service, name, got)
			}
		}
		if seen[service].Get("X-Mine") != "" {
			t.Errorf("%s: a field of no concern was passed on", service)
		}
	}
}

// The addresses in the program are those of the manifests.
func TestAddressesAreThoseOfTheManifests(t *testing.T) {
	text, err := Manifests.ReadFile("01-bookinfo.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"waypoint.yaml", "reviews-waypoint.yaml"} {
		more, err := Manifests.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text = append(append(text, "\n---\n"...), more...)
	}
	pods := map[string]string{}
	for doc := range strings.SplitSeq(string(text), "\n---\n") {
		if m := regexp.MustCompile(`(?s)kind: Pod\n.*?name: (\S+).*podIP: (\S+)`).FindStringSubmatch(doc); m != nil {
			pods[m[1]] = m[2]
		}
	}
	for name, ip := range IPs {
		if pods[name] != ip {
			t.Errorf("%s: got %s, want %s", name, ip, pods[name])
		}
		delete(pods, name)
	}
	if len(pods) > 0 {
		t.Errorf("nobody runs %v", pods)
	}
}

func TestMainSaysWhatItCanBe(t *testing.T) {
	for _, row := range []struct {
		args string
		want string
	}{
		{"", "usage: bookinfo POD"},
		{"nobody", "usage: bookinfo POD"},
		{"bookinfo-reviews-istio-waypoint", "usage: bookinfo POD"},
		{"sleep", "bookinfo sleep: give one URL"},
		{"sleep -Y", "flag provided but not defined: -Y"},
		{"details-v1 --help", "the address of the pod"},
		{"istio-ingressgateway", "--config and --gateway NAMESPACE/NAME are required"},
		{"istio-ingressgateway --config /nowhere", "/nowhere"},
	} {
		var stderr bytes.Buffer
		if status := Main(context.Background(), strings.Fields(row.args), &bytes.Buffer{}, &stderr); status == 0 || !strings.Contains(stderr.String(), row.want) {
			t.Errorf("%s: got %d %s, want %s", row.args, status, stderr.String(), row.want)
		}
	}
}

func TestAClientWithoutANodeTunnelSaysSo(t *testing.T) {
	var stdout, stderr bytes.Buffer
	// Nobody is at this address.
	status := Main(t.Context(), []string{"sleep", "-ip", "127.250.250.250", "http://productpage:9080/"}, &stdout, &stderr)
	if status != 1 || !strings.Contains(stderr.String(), "127.250.250.250:15080") {
		t.Errorf("got %d %s", status, stderr.String())
	}
}
