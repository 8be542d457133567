// Command turns fetches a URL over and over, each time on a connection of its own, by a few
// clients of which each waits for one connection's end before the next.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"net/http"
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

func fetch(client *http.Client, url string) error {
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", response.Status)
	}
	return nil
}
