package main

import (
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/covehq/cove"
)

// certificate is a certificate and its key in files, which somebody renews. Whoever
// connects gets what the files have at that moment; while that is no certificate, as
// between the writing of the one and of the other, what they had before.
type certificate struct {
	cert, key string
	log       *slog.Logger

	mu     sync.Mutex
	loaded *tls.Certificate
	stamps [2]stamp
}

// stamp tells one content of a file from another.
type stamp struct {
	at   time.Time
	size int64
}

// openCertificate returns a configuration with the certificate of two files, or nil where
// there is none.
func openCertificate(cert, key string, log *slog.Logger) (*tls.Config, error) {
	if cert == "" {
		return nil, nil
	}
	c := &certificate{cert: cert, key: key, log: log, stamps: [2]stamp{stampOf(cert), stampOf(key)}}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, &cove.Error{Code: cove.Invalid, Op: "serve", Err: err, Hint: "give --tls-cert and --tls-key files in PEM that belong together"}
	}
	c.loaded = &pair
	return &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12}, nil
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stamps := [2]stamp{stampOf(c.cert), stampOf(c.key)}
	if stamps == c.stamps {
		return c.loaded, nil
	}
	c.stamps = stamps // before they are read, so that a later change is seen
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		c.log.Warn("the certificate was changed and can't be used; the one before is, until that is mended", "file", c.cert, "err", err)
		return c.loaded, nil
	}
	c.log.Info("the certificate was renewed", "file", c.cert, "until", pair.Leaf.NotAfter)
	c.loaded = &pair
	return c.loaded, nil
}

func stampOf(file string) stamp {
	info, err := os.Stat(file)
	if err != nil {
		return stamp{}
	}
	return stamp{info.ModTime(), info.Size()}
}
