package bookinfo

import (
	"html/template"
	"net/http"
	"strings"
	"sync"
)

// A product is what the shop has one of.
type product struct {
	ID    int    `json:"id"`
	Title string `json:"title"`
	About string `json:"descriptionHtml"`
}

var book = product{0, "The Comedy of Errors", "An early comedy of Shakespeare's, in which everybody is taken for somebody else."}

func (s *service) products(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, []product{book})
}

func (s *service) index(w http.ResponseWriter, _ *http.Request) {
	render(w, index, nil)
}

// page asks details and reviews at once, and shows what it gets.
func (s *service) page(w http.ResponseWriter, r *http.Request) {
	var p struct {
		Product    product
		Details    Details
		DetailsErr error
		Reviews    Reviews
		ReviewsErr error
		Missing    string
	}
	p.Product, p.Missing = book, unavailable
	var asked sync.WaitGroup
	asked.Go(func() { p.DetailsErr = s.get(r, "details", "/details/0", &p.Details) })
	asked.Go(func() { p.ReviewsErr = s.get(r, "reviews", "/reviews/0", &p.Reviews) })
	asked.Wait()
	render(w, productPage, p)
}

func render(w http.ResponseWriter, t *template.Template, data any) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = t.Execute(w, data) // the client has gone away: nobody to tell
}

var funcs = template.FuncMap{
	"stars": func(n int) string { return strings.Repeat("★", n) + strings.Repeat("☆", max(0, 5-n)) },
}

var index = template.Must(template.New("index").Parse(`<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Simple Bookstore App</title></head>
<body>
<h1>Bookinfo</h1>
<p>A shop with one book, four services and a mesh around them: <a href="/productpage">to the book</a>.</p>
</body>
</html>
`))

var productPage = template.Must(template.New("page").Funcs(funcs).Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Simple Bookstore App</title>
<style>
body { font-family: sans-serif; max-width: 60em; margin: 2em auto; }
section { display: inline-block; vertical-align: top; width: 45%; margin-right: 3%; }
.black { color: black; } .red { color: red; }
</style>
</head>
<body>
<h1>{{.Product.Title}}</h1>
<p>{{.Product.About}}</p>
<section>
<h2>Book Details</h2>
{{if .DetailsErr}}<p>The service details {{.Missing}}.</p>
{{else}}<dl>
<dt>Type</dt><dd>{{.Details.Type}}</dd>
<dt>Pages</dt><dd>{{.Details.Pages}}</dd>
<dt>Publisher</dt><dd>{{.Details.Publisher}}</dd>
<dt>Language</dt><dd>{{.Details.Language}}</dd>
<dt>ISBN-10</dt><dd>{{.Details.ISBN10}}</dd>
<dt>ISBN-13</dt><dd>{{.Details.ISBN13}}</dd>
</dl>{{end}}
</section>
<section>
<h2>Book Reviews</h2>
{{if .ReviewsErr}}<p>The service reviews {{.Missing}}.</p>
{{else}}{{range .Reviews.Reviews}}<blockquote>
<p>{{.Text}}</p>
<footer>{{.Reviewer}}{{with .Rating}}{{if .Error}}, whose rating {{.Error}}{{else}} <span class="{{.Color}}">{{stars .Stars}}</span>{{end}}{{end}}</footer>
</blockquote>
{{end}}<p>served by {{.Reviews.Podname}}</p>{{end}}
</section>
</body>
</html>
`))
