//go:build linux

package demo

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/waystone-mesh/waystone/examples/bookinfo"
)

// The files of the two steps.
const (
	jwtPolicy = "jwt-policy.yaml"
	opaPolicy = "opa-policy.yaml"
)

// What the steps ask for: the API, without a token, and with one that says who is
// a reader or only a guest, and with one that nobody has signed.
var (
	getAPI   = request{method: http.MethodGet, url: "http://productpage:9080/api/v1/products"}
	asReader = request{getAPI.method, getAPI.url, "reader.jwt"}
	asGuest  = request{getAPI.method, getAPI.url, "guest.jwt"}
	asForger = request{getAPI.method, getAPI.url, "forged.jwt"}
)

var (
	products = expectation{status: 200, text: "The Comedy of Errors"}
	unsigned = expectation{status: 401, text: "Jwt verification fails"}
	noReader = expectation{status: 403, text: "only readers read the API"}
)

// token has the API ask for a token, beside the policy of the step before: who has
// none is refused by the policy, and who has a bad one by its verification.
func (d *demo) token(ctx context.Context) error {
	if err := d.apply(jwtPolicy, jwtPolicy); err != nil {
		return err
	}
	d.check(ctx, d.sleep, getAPI, denied)
	d.why(ctx, "AuthorizationPolicy default/productpage-api")
	d.check(ctx, d.sleep, asForger, unsigned)
	d.why(ctx, "denied: "+unsigned.text)
	d.check(ctx, d.sleep, asReader, products)
	d.check(ctx, d.sleep, asGuest, products)
	d.check(ctx, d.sleep, getPage, allowed)
	return nil
}

// opa has a policy in Rego decide what the token must say.
func (d *demo) opa(ctx context.Context) error {
	if err := d.apply(opaPolicy, opaPolicy); err != nil {
		return err
	}
	d.check(ctx, d.sleep, asGuest, noReader)
	d.why(ctx, "denied by the authorizer bookinfo-opa, asked by istio-ext-authz-bookinfo-opa-ns[default]-policy[productpage-readers]")
	d.check(ctx, d.sleep, asReader, products)
	d.check(ctx, d.sleep, getPage, allowed)
	return nil
}

// why asks the waypoint of productpage for the reason of its last refusal, and
// prints it. If there is none that has a text, the step differs.
func (d *demo) why(ctx context.Context, text string) {
	url := "http://" + bookinfo.IPs["bookinfo-productpage-istio-waypoint"] + ":15000/authz/recent?allowed=false&limit=1&format=text"
	d.command("curl '" + url + "'")
	line, err := lastReason(ctx, url)
	if err != nil || !strings.Contains(line, text) {
		d.judge(false, text, fmt.Sprint(line, err))
		return
	}
	d.line("     why       %s", line)
}

func lastReason(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", resp.Status, firstLine(body))
	}
	return firstLine(body), nil
}
