package intercept

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covehq/cove"
)

func TestHammerLeavesNothingBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("many connections that end in many ways", func(t *testing.T) {
		w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/echo":
				io.Copy(w, r.Body)
			case "/hang":
				<-r.Context().Done()
			case "/abort":
				panic(http.ErrAbortHandler)
			}
		}, options{secrets: []secretValue{withPlaces(github("api.example.org"), cove.SecretInHeader, cove.SecretInBody)}})
		var group sync.WaitGroup
		for worker := range 8 {
			group.Go(func() {
				for i := range 25 {
					w.hammer(worker*100+i, []string{"/echo", "/hang", "/abort", "/bot" + placeholder}[(worker+i)%4])
				}
			})
		}
		group.Wait()
	})
	deadline := time.Now().Add(20 * time.Second)
	for runtime.NumGoroutine() > before+2 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if after := runtime.NumGoroutine(); after > before+2 {
		stacks := make([]byte, 1<<20)
		t.Errorf("%d goroutines before, %d after:\n%s", before, after, stacks[:runtime.Stack(stacks, true)])
	}
}

// hammer makes a client, a request, and an end of both.
func (w *world) hammer(i int, path string) {
	client := w.client(i%2 == 0)
	defer client.CloseIdleConnections()
	client.Timeout = 20 * time.Second
	if path == "/hang" {
		client.Timeout = 50 * time.Millisecond
	}
	body := fmt.Sprintf("%d %s", i, strings.Repeat("x", i*50))
	res, err := client.Post(w.url(path), "text/plain", strings.NewReader(body))
	if err != nil {
		if path == "/echo" {
			w.t.Error(err)
		}
		return
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if path == "/echo" && (err != nil || string(content) != body) {
		w.t.Errorf("echo = %d bytes, %v, want %d", len(content), err, len(body))
	}
}

func BenchmarkGet(b *testing.B) {
	for _, h2 := range []bool{false, true} {
		b.Run(fmt.Sprintf("h2 %v", h2), func(b *testing.B) {
			w := newWorld(b, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") }, options{secrets: []secretValue{github("api.example.org")}})
			client := w.client(h2)
			for b.Loop() {
				w.do(client, "GET", "/", nil, http.Header{"Authorization": {placeholder}})
				w.mu.Lock()
				w.events = nil
				w.mu.Unlock()
				<-w.changed
			}
		})
	}
}

func BenchmarkConnect(b *testing.B) {
	w := newWorld(b, func(w http.ResponseWriter, r *http.Request) {}, options{secrets: []secretValue{github("api.example.org")}})
	for b.Loop() {
		client := w.client(false)
		w.do(client, "GET", "/", nil, nil)
		client.CloseIdleConnections()
		<-w.changed
	}
}
