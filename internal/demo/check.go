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

func (c client) command(method, url string) string {
	if method == http.MethodGet {
		return "waystone bookinfo " + c.pod + " " + url
	}
	return "waystone bookinfo " + c.pod + " -X " + method + " " + url
}

func (c client) ask(ctx context.Context, method, url string) bookinfo.Answer {
	cmd := exec.CommandContext(ctx, c.program, "bookinfo", c.pod, "-i", "-X", method, url)
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

func (o outside) command(string, string) string { return "curl " + o.url() }

func (o outside) ask(ctx context.Context, method, _ string) bookinfo.Answer {
	t := &http.Transport{DisableKeepAlives: true}
	return bookinfo.AskOver(ctx, t, method, o.url())
}

// An asker makes requests.
type asker interface {
	command(method, url string) string
	ask(ctx context.Context, method, url string) bookinfo.Answer
}
