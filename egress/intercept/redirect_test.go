package intercept

import (
	"net/http"
	"strings"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
)

// A redirect is the program's to follow, and what follows is a request as any other.
func TestT63T65ARedirectIsPassedOnAndNeverFollowed(t *testing.T) {
	for _, location := range []string{
		"https://evil.example.org/x", "http://169.254.169.254/latest/meta-data/", "https://[fd00:ec2::254]/", "https://203.0.114.7/",
		"http://api.example.org/x", "https://api.example.org:8443/x", "//evil.example.org/", "ftp://api.example.org/",
	} {
		for name, h2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
			t.Run(location+" by "+name, func(t *testing.T) {
				w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Location", location)
					w.WriteHeader(http.StatusTemporaryRedirect)
				}, options{rules: []cove.RequestRule{{Host: "api.example.org"}}, secrets: []egress.SecretValue{github("api.example.org")}})
				client := w.client(h2)
				header := http.Header{"Authorization": {"Bearer " + placeholder}}
				response, _ := w.do(client, http.MethodPost, "/x", strings.NewReader("a body"), header)
				if response.StatusCode != http.StatusTemporaryRedirect || response.Header.Get("Location") != location {
					t.Errorf("the program got %s to %q, want what the server said", response.Status, response.Header.Get("Location"))
				}
				if got := w.dials(); got != 1 {
					t.Errorf("%d connections to the server, want one", got)
				}
				// What follows the redirect on the same connection is decided by its own host.
				request, err := http.NewRequest(http.MethodGet, w.url("/x"), nil)
				if err != nil {
					t.Fatal(err)
				}
				request.Host = "evil.example.org"
				request.Header = header
				if response, err := client.Do(request); err == nil {
					response.Body.Close()
					if response.StatusCode != http.StatusMisdirectedRequest {
						t.Errorf("for another host: %s", response.Status)
					}
				}
				if got := w.dials(); got != 1 {
					t.Errorf("after that: %d connections to the server, want one", got)
				}
			})
		}
	}
}
