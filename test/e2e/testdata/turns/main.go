// Command turns fetches a URL over and over, each time on a connection of its own, by a few
// clients of which each waits for one connection's end before the next.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"sync"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "turns:", err)
		os.Exit(1)
	}
}

func run() error {
	ca := flag.String("ca", "", "file of the certificates to trust")
	count := flag.Int("n", 1000, "connections")
	clients := flag.Int("clients", 4, "clients")
	again := flag.Int("again", 1, "how often a client makes a connection again that came back in no time")
	flag.Parse()
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{}}
	if *ca != "" {
		data, err := os.ReadFile(*ca)
		if err != nil {
			return err
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(data)
	}
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	failures := make([]error, *clients)
	var all sync.WaitGroup
	for i := range failures {
		all.Go(func() {
			for n := i; n < *count && failures[i] == nil; n += *clients {
				failures[i] = fetch(client, flag.Arg(0))
				for tries := 0; failures[i] != nil && os.IsTimeout(failures[i]) && tries < *again; tries++ {
					fmt.Println("again:", failures[i])
					failures[i] = fetch(client, flag.Arg(0))
				}
			}
		})
	}
	all.Wait()
	for _, err := range failures {
		if err != nil {
			return err
		}
	}
	fmt.Println("all came back")
	return nil
}

// stuck is an error that says how far a connection came.
type stuck struct {
	error
	after string
	took  time.Duration
}

func (s *stuck) Error() string { return fmt.Sprintf("after %s, in %v: %v", s.after, s.took, s.error) }

// Timeout reports whether it took too long.
func (s *stuck) Timeout() bool { return os.IsTimeout(s.error) }

// fetch makes one connection. Its error says how far it came.
func fetch(client *http.Client, url string) error {
	reached := "nothing"
	begun := time.Now()
	trace := &httptrace.ClientTrace{
		DNSDone:      func(httptrace.DNSDoneInfo) { reached = "the name" },
		ConnectDone:  func(string, string, error) { reached = "the connection" },
		WroteRequest: func(httptrace.WroteRequestInfo) { reached = "the request" },
	}
	request, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return &stuck{after: reached, took: time.Since(begun), error: err}
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return fmt.Errorf("body: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", response.Status)
	}
	return nil
}
