// Command reach measures a connection to a server of the benchmark, from wherever it runs,
// and prints what it found as JSON.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"time"
)

// result is what is printed. Times are in nanoseconds.
type result struct {
	Lookup   []time.Duration `json:"lookup"`   // of the name
	Dial     []time.Duration `json:"dial"`     // connect to its address
	Connect  []time.Duration `json:"connect"`  // the same until the first byte is back
	Get      []time.Duration `json:"get"`      // a small reply on a kept connection
	Download float64         `json:"download"` // bytes a second
	Upload   float64         `json:"upload"`
	Open     int             `json:"open"` // connections at the same time
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "reach:", err)
		os.Exit(1)
	}
}

func run() error {
	base := flag.String("url", "", "the server")
	echo := flag.String("echo", "", "HOST:PORT that sends a byte back; empty: connect is not measured")
	ca := flag.String("ca", "", "file of the certificates to trust")
	proxy := flag.String("proxy", "", "URL of a proxy to go by")
	rounds := flag.Int("n", 100, "connections and requests")
	size := flag.Int64("size", 500<<20, "bytes down and up")
	open := flag.Int("open", 0, "connections to hold open at the same time")
	flag.Parse()
	client, err := newClient(*ca, *proxy)
	if err != nil {
		return err
	}
	var r result
	if *echo != "" {
		if err = connect(&r, *echo, *rounds); err != nil {
			return err
		}
		if r.Open, err = hold(*echo, *open); err != nil {
			return err
		}
	}
	if r.Get, err = get(client, *base+"/small", *rounds); err != nil {
		return err
	}
	if r.Download, err = download(client, *base, *size); err != nil {
		return err
	}
	if r.Upload, err = upload(client, *base, *size); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func newClient(ca, proxy string) (*http.Client, error) {
	// HTTP/1.1 on every way, so that they differ in nothing else.
	transport := &http.Transport{DisableCompression: true, WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10}
	transport.TLSClientConfig = &tls.Config{}
	if proxy != "" {
		by, err := url.Parse(proxy)
		if err != nil {
			return nil, err
		}
		transport.Proxy = http.ProxyURL(by)
	}
	if ca != "" {
		data, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(data)
	}
	return &http.Client{Transport: transport}, nil
}

// ping connects and waits for a byte. It also returns when it was connected.
func ping(address string) (net.Conn, time.Time, error) {
	conn, err := net.DialTimeout("tcp", address, 10*time.Second)
	connected := time.Now()
	if err != nil {
		return nil, connected, err
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err = conn.Write([]byte{1}); err == nil {
		_, err = io.ReadFull(conn, make([]byte, 1))
	}
	if err != nil {
		_ = conn.Close()
		return nil, connected, err
	}
	return conn, connected, nil
}

// lull is between two connections, so that the end of one is not measured with the next.
const lull = 5 * time.Millisecond

func connect(r *result, address string, rounds int) error {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	for i := range rounds + 5 {
		at := time.Now()
		found, err := net.LookupHost(name)
		if err != nil {
			return err
		}
		known := time.Now()
		conn, connected, err := ping(net.JoinHostPort(found[0], port))
		if err != nil {
			return err
		}
		if back := time.Now(); i >= 5 {
			r.Lookup, r.Dial, r.Connect = append(r.Lookup, known.Sub(at)), append(r.Dial, connected.Sub(known)), append(r.Connect, back.Sub(known))
		}
		_ = conn.Close()
		time.Sleep(lull)
	}
	return nil
}

// hold opens connections and keeps all of them open until each has answered.
func hold(address string, count int) (int, error) {
	conns := make(chan net.Conn, count)
	failures := make(chan error, count)
	slots := make(chan struct{}, 64)
	for range count {
		go func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			conn, _, err := ping(address)
			if err != nil {
				failures <- err
				return
			}
			conns <- conn
		}()
	}
	var held []net.Conn
	defer func() {
		for _, conn := range held {
			_ = conn.Close()
		}
	}()
	for range count {
		select {
		case conn := <-conns:
			held = append(held, conn)
		case err := <-failures:
			return len(held), err
		}
	}
	return len(held), nil
}

func get(client *http.Client, address string, rounds int) ([]time.Duration, error) {
	var took []time.Duration
	for i := range rounds + 5 {
		reused := false
		trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused }}
		request, err := http.NewRequest(http.MethodGet, address, nil)
		if err != nil {
			return nil, err
		}
		at := time.Now()
		response, err := client.Do(request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
		if err != nil {
			return nil, err
		}
		_, err = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if err != nil {
			return nil, err
		}
		if i < 5 {
			continue
		}
		if !reused {
			return nil, errors.New("a connection was not kept")
		}
		took = append(took, time.Since(at))
	}
	return took, nil
}

func download(client *http.Client, base string, size int64) (float64, error) {
	at := time.Now()
	response, err := client.Get(fmt.Sprintf("%s/down?size=%d", base, size))
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, bufio.NewReaderSize(response.Body, 256<<10), make([]byte, 256<<10))
	if err == nil && n != size {
		err = fmt.Errorf("%d of %d bytes came", n, size)
	}
	return float64(size) / time.Since(at).Seconds(), err
}

// zeros are as many bytes of nothing as are read.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func upload(client *http.Client, base string, size int64) (float64, error) {
	request, err := http.NewRequest(http.MethodPut, base+"/up", io.LimitReader(zeros{}, size))
	if err != nil {
		return 0, err
	}
	request.ContentLength = size
	at := time.Now()
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	var n int64
	if _, err := fmt.Fscan(response.Body, &n); err != nil || n != size {
		return 0, fmt.Errorf("%d of %d bytes arrived: %v", n, size, err)
	}
	return float64(size) / time.Since(at).Seconds(), nil
}
