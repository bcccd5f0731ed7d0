package demo

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"time"

	"github.com/waystone-mesh/waystone/examples/bookinfo"
)

// settling is how long a change may take to show in what clients see: 3 s. How
// fast it is, the step of the live edit measures.
const settling = 3 * time.Second

// page is what the walk-through asks for.
const page = "http://productpage:9080/productpage"

// A request is what somebody asks for.
type request struct {
	method, url string
	token       string // the file of a token to bring, in examples/bookinfo; "": none
}

var (
	getPage    = request{method: http.MethodGet, url: page}
	deletePage = request{method: http.MethodDelete, url: page}
)

// An expectation is what an answer should be.
type expectation struct {
	status int    // 0: no answer at all
	text   string // in the content, or in the error; "" is any
}

func (e expectation) String() string {
	switch {
	case e.status == 0:
		return "the connection is refused"
	case e.text == "":
		return fmt.Sprint(e.status)
	}
	return fmt.Sprintf("%d %s", e.status, e.text)
}

func (e expectation) met(a bookinfo.Answer) bool {
	if e.status == 0 {
		return a.Err != nil && strings.Contains(a.Err.Error(), e.text)
	}
	return a.Err == nil && a.Status == e.status && bytes.Contains(a.Body, []byte(e.text))
}

// describe says what came.
func (e expectation) describe(a bookinfo.Answer) string {
	switch {
	case a.Err != nil:
		return a.Err.Error()
	case e.text != "" && bytes.Contains(a.Body, []byte(e.text)):
		return fmt.Sprintf("%d %s", a.Status, e.text)
	}
	return fmt.Sprintf("%d %s", a.Status, firstLine(a.Body))
}

func firstLine(body []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	return line
}

// A client is a pod that makes requests: by its own program, run for one request.
type client struct {
	program string
	pod     string
}

func (c client) command(r request) string {
	text := "waystone bookinfo " + c.pod
	if r.method != http.MethodGet {
		text += " -X " + r.method
	}
	if r.token != "" {
		text += ` -H "authorization: Bearer $(cat examples/bookinfo/` + r.token + `)"`
	}
	return text + " " + r.url
}

func (c client) ask(ctx context.Context, r request) bookinfo.Answer {
	args := []string{"bookinfo", c.pod, "-i", "-X", r.method}
	if r.token != "" {
		text, err := bookinfo.Manifests.ReadFile(r.token)
		if err != nil {
			return bookinfo.Answer{Err: err}
		}
		args = append(args, "-H", "authorization: Bearer "+strings.TrimSpace(string(text)))
	}
	cmd := exec.CommandContext(ctx, c.program, append(args, r.url)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return bookinfo.Answer{Err: fmt.Errorf("%s", strings.TrimSpace(stderr.String()))}
	}
	return readAnswer(&stdout)
}

// readAnswer reads what a client printed with -i.
func readAnswer(r io.Reader) bookinfo.Answer {
	b := bufio.NewReader(r)
	status, err := b.ReadString('\n')
	if err != nil {
		return bookinfo.Answer{Err: fmt.Errorf("the client printed no status line: %w", err)}
	}
	a := bookinfo.Answer{Text: strings.TrimSpace(status)}
	if _, err := fmt.Sscanf(status, "%s %d", &a.Proto, &a.Status); err != nil {
		return bookinfo.Answer{Err: fmt.Errorf("%q is no status line: %w", status, err)}
	}
	for {
		line, err := b.ReadString('\n')
		if err != nil {
			return bookinfo.Answer{Err: fmt.Errorf("the client printed half a head: %w", err)}
		}
		if strings.TrimSpace(line) == "" {
			break
		}
	}
	a.Body, a.Err = io.ReadAll(b)
	return a
}

// outside is a client that is no pod: it asks the ingress.
type outside struct{ address string }

func (o outside) url() string { return "http://" + o.address + "/productpage" }

func (o outside) command(request) string { return "curl " + o.url() }

func (o outside) ask(ctx context.Context, r request) bookinfo.Answer {
	t := &http.Transport{DisableKeepAlives: true}
	return bookinfo.AskOver(ctx, t, r.method, o.url())
}

// An asker makes requests.
type asker interface {
	command(r request) string
	ask(ctx context.Context, r request) bookinfo.Answer
}
