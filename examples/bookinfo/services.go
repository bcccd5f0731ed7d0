package bookinfo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

func socksURL(ip string) *url.URL {
	return &url.URL{Scheme: "socks5h", Host: net.JoinHostPort(ip, strconv.Itoa(SOCKSPort))}
}

// traced are the fields that a service passes on to those it asks: whose request
// it is, and which trace it belongs to.
var traced = []string{
	"X-Request-Id", "Traceparent", "Tracestate", "B3", "X-B3-Traceid", "X-B3-Spanid", "X-B3-Parentspanid", "X-B3-Sampled", "X-B3-Flags",
	"X-Ot-Span-Context", "End-User", "User-Agent", "Cookie", "Authorization",
}

// callTimeout bounds a call from one service to another: 5 s.
const callTimeout = 5 * time.Second

// A service is one of the four.
type service struct {
	version string
	pod     string
	client  *http.Client
}

// Handler returns what a service answers; transport is how it asks the others.
func Handler(app, version, pod string, transport http.RoundTripper) http.Handler {
	s := &service{version, pod, &http.Client{Transport: transport}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]string{"status": app + " is healthy"})
	})
	switch app {
	case "productpage":
		mux.HandleFunc("GET /{$}", s.index)
		mux.HandleFunc("/productpage", s.page) // any method: the walk-through has the mesh refuse some
		mux.HandleFunc("GET /api/v1/products", s.products)
	case "details":
		mux.HandleFunc("GET /details/{id}", s.details)
	case "reviews":
		mux.HandleFunc("GET /reviews/{id}", s.reviews)
	case "ratings":
		mux.HandleFunc("GET /ratings/{id}", s.ratings)
	}
	return mux
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone away: nobody to tell
}

// A Details is what is printed in a book.
type Details struct {
	ID        string `json:"id"`
	Author    string `json:"author"`
	Year      int    `json:"year"`
	Type      string `json:"type"`
	Pages     int    `json:"pages"`
	Publisher string `json:"publisher"`
	Language  string `json:"language"`
	ISBN10    string `json:"ISBN-10"`
	ISBN13    string `json:"ISBN-13"`
}

func (s *service) details(w http.ResponseWriter, r *http.Request) {
	reply(w, http.StatusOK, Details{
		ID: r.PathValue("id"), Author: "William Shakespeare", Year: 1595, Type: "paperback", Pages: 200,
		Publisher: "PublisherA", Language: "English", ISBN10: "1234567890", ISBN13: "123-1234567890",
	})
}

// Ratings are stars by reviewer.
type Ratings struct {
	ID      string         `json:"id"`
	Ratings map[string]int `json:"ratings"`
}

func (s *service) ratings(w http.ResponseWriter, r *http.Request) {
	reply(w, http.StatusOK, Ratings{r.PathValue("id"), map[string]int{"Reviewer1": 5, "Reviewer2": 4}})
}

// Reviews are what readers say, and which version of the service tells it.
type Reviews struct {
	ID      string   `json:"id"`
	Podname string   `json:"podname"`
	Reviews []Review `json:"reviews"`
}

// A Review is one reader's. Rating is nil from v1.
type Review struct {
	Reviewer string  `json:"reviewer"`
	Text     string  `json:"text"`
	Rating   *Rating `json:"rating,omitempty"`
}

// A Rating is stars, in the colour of the version; or why there are none.
type Rating struct {
	Stars int    `json:"stars,omitempty"`
	Color string `json:"color,omitempty"`
	Error string `json:"error,omitempty"`
}

// colors are those of the stars: v1 has none.
var colors = map[string]string{"v2": "black", "v3": "red"}

func (s *service) reviews(w http.ResponseWriter, r *http.Request) {
	out := Reviews{r.PathValue("id"), s.pod, []Review{
		{Reviewer: "Reviewer1", Text: "Two pairs of twins, one afternoon, and not a dull minute in it."},
		{Reviewer: "Reviewer2", Text: "Shorter than the others and funnier than most of them."},
	}}
	if color := colors[s.version]; color != "" {
		var ratings Ratings
		err := s.get(r, "ratings", "/ratings/"+out.ID, &ratings)
		for i := range out.Reviews {
			rating := &Rating{Stars: ratings.Ratings[out.Reviews[i].Reviewer], Color: color}
			if err != nil {
				rating = &Rating{Error: unavailable}
			}
			out.Reviews[i].Rating = rating
		}
	}
	reply(w, http.StatusOK, out)
}

// unavailable is what stands where another service did not answer.
const unavailable = "is currently unavailable"

// Whole reports whether a page of productpage has all of its parts.
func Whole(page []byte) bool {
	return strings.Contains(string(page), "Book Details") && !strings.Contains(string(page), unavailable)
}

// get asks another service on behalf of r, and logs when there is no answer.
func (s *service) get(r *http.Request, host, path string, into any) error {
	err := s.ask(r, host, path, into)
	if err != nil {
		slog.Error("no answer", "from", host, "path", path, "error", err)
	}
	return err
}

func (s *service) ask(r *http.Request, host, path string, into any) error {
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	out, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:%d%s", host, Port, path), nil)
	if err != nil {
		return err
	}
	for _, name := range traced {
		if v := r.Header.Values(name); len(v) > 0 {
			out.Header[name] = v
		}
	}
	resp, err := s.client.Do(out)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", host, resp.Status)
	}
	return json.Unmarshal(body, into)
}
