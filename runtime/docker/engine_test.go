package docker

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestT53AReplyWithoutAnEndIsCutOff(t *testing.T) {
	fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/_ping") {
			w.Header().Set("Api-Version", "1.41")
			return
		}
		for space := bytes.Repeat([]byte(" "), 1<<20); ; { // which JSON may begin with
			if _, err := w.Write(space); err != nil {
				return
			}
		}
	}))
	defer fake.Close()
	d := open(t, "tcp://"+strings.TrimPrefix(fake.URL, "http://"))
	_, err := d.containers(t.Context(), "")
	if want := "the engine's reply is longer than 64MiB"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
