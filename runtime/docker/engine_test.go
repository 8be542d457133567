package docker

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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

// TestAnEngineBehindTLSAnswersAndConnects has an engine that takes no request without TLS.
func TestAnEngineBehindTLSAnswersAndConnects(t *testing.T) {
	fake := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/_ping"):
			w.Header().Set("Api-Version", "1.41")
		case strings.HasSuffix(r.URL.Path, "/containers/json"):
			_, _ = io.WriteString(w, "[]")
		default:
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n\x01\x00\x00\x00\x00\x00\x00\x05hello")
		}
	}))
	defer fake.Close()
	t.Setenv("DOCKER_CERT_PATH", certificates(t, fake))
	t.Setenv("DOCKER_TLS_VERIFY", "1")
	d := open(t, "tcp://"+strings.TrimPrefix(fake.URL, "https://"))
	if _, err := d.containers(t.Context(), ""); err != nil {
		t.Errorf("list: %v", err)
	}
	s, err := d.attach(t.Context(), strings.Repeat("a", 64))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got, err := io.ReadAll(s); string(got) != "hello" {
		t.Errorf("attach: got %q, %v; want what the process said", got, err)
	}
}

// certificates writes a server's certificate where the docker command looks for that of its
// authority, and for one of its own.
func certificates(t *testing.T, server *httptest.Server) string {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(server.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir, certificate := t.TempDir(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for name, content := range map[string][]byte{
		"ca.pem": certificate, "cert.pem": certificate, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
