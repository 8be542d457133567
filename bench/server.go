package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// siteName is the name of the benchmark's server, which only its own name server knows.
const siteName = "site.bench.test"

// site is a server on loopback for what goes out of sandboxes: HTTP, HTTPS and an echo, and
// a name server that knows it.
type site struct {
	ca                         string // file of its certificate
	plain, secure, echo, names string // host:port
	serving                    sync.WaitGroup
	closers                    []io.Closer
}

func startSite(dir string) (*site, error) {
	s := &site{ca: filepath.Join(dir, "site.pem")}
	certificate, err := s.certificate()
	if err != nil {
		return nil, err
	}
	var listeners [3]net.Listener
	for i := range listeners {
		if listeners[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return nil, err
		}
		s.closers = append(s.closers, listeners[i])
	}
	names, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, names)
	s.plain, s.secure, s.echo, s.names = listeners[0].Addr().String(), listeners[1].Addr().String(), listeners[2].Addr().String(), names.LocalAddr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /small", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "small") })
	mux.HandleFunc("GET /down", sendZeros)
	mux.HandleFunc("PUT /up", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 256<<10))
		fmt.Fprint(w, n)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute, TLSConfig: &tls.Config{Certificates: []tls.Certificate{*certificate}, NextProtos: []string{"http/1.1"}}}
	s.closers = append(s.closers, server)
	s.serving.Go(func() { _ = server.Serve(listeners[0]) })
	s.serving.Go(func() { _ = server.ServeTLS(listeners[1], "", "") })
	s.serving.Go(func() { s.sendBack(listeners[2]) })
	s.serving.Go(func() { answerNames(names) })
	return s, nil
}

func (s *site) stop() {
	for _, closer := range s.closers {
		_ = closer.Close()
	}
	s.serving.Wait()
}

// sendZeros sends as many bytes as the query says.
func sendZeros(w http.ResponseWriter, r *http.Request) {
	size, err := strconv.ParseInt(r.URL.Query().Get("size"), 10, 64)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	piece := make([]byte, 256<<10)
	for ; size > 0; size -= int64(len(piece)) {
		if _, err := w.Write(piece[:min(size, int64(len(piece)))]); err != nil {
			return
		}
	}
}

// sendBack answers each connection with the byte that it sent, until it hangs up.
func (s *site) sendBack(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		s.serving.Go(func() { _, _ = io.Copy(conn, conn); _ = conn.Close() })
	}
}

// answerNames is a name server that knows the site.
func answerNames(conn net.PacketConn) {
	buffer := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buffer[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		reply := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true}, Questions: m.Questions}
		switch question := m.Questions[0]; {
		case !strings.EqualFold(question.Name.String(), siteName+"."):
			reply.RCode = dnsmessage.RCodeNameError
		case question.Type == dnsmessage.TypeA:
			reply.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: question.Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 60},
				Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
			}}
		}
		if packed, err := reply.Pack(); err == nil {
			_, _ = conn.WriteTo(packed, from)
		}
	}
}

// certificate makes one for the site that is its own authority, and leaves it in a file.
func (s *site) certificate() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: siteName}, DNSNames: []string{siteName, "localhost"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	encoded := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, os.WriteFile(s.ca, encoded, 0o600)
}

// port returns the port of a host:port.
func port(address string) string { _, p, _ := net.SplitHostPort(address); return p }

// waitListening returns when something listens on an address.
func waitListening(ctx context.Context, address string) error {
	for {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen: %w", address, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
