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
		return fmt.Errorf("after %s, in %v: %w", reached, time.Since(begun), err)
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
