package intercept

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
)

// errOtherName says that a client asked for the certificate of another name.
type errOtherName struct{ name string }

func (e *errOtherName) Error() string {
	return fmt.Sprintf("the program asks for %s on it: connect to that name instead, if a rule allows it", printable(e.name))
}

// tlsConfig is the guest's side of TLS. Sessions are not resumed: a ticket would carry one
// name's handshake over to the next.
func (c *connection) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		NextProtos:             []string{"h2", "http/1.1"},
		SessionTicketsDisabled: true,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if hello.ServerName != "" && canonical(hello.ServerName) != c.name {
				return nil, &errOtherName{hello.ServerName}
			}
			return c.opener.o.CA.certificate(c.name)
		},
	}
}

// handshake opens the guest's TLS. What goes wrong with it is told in the sandbox's log.
func (c *connection) handshake(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opener.o.HeadTimeout)
	defer cancel()
	conn := tls.Server(c.guest, c.tlsConfig())
	err := conn.HandshakeContext(ctx)
	if err == nil {
		return conn, nil
	}
	if errors.Is(err, io.EOF) {
		return nil, c.fail("the program left during the TLS handshake", io.ErrUnexpectedEOF)
	}
	var alert *net.OpError
	if errors.As(err, &alert) && alert.Op == "remote error" && isAboutTrust(alert.Err) {
		const advice = "the client does not trust Cove's certificate (%s): it has roots of its own or pins a certificate; " +
			"let it use the system's roots, or take away the request rules and secrets for %s, without which its TLS passes unopened"
		c.opener.o.Logger.Warn("the client does not trust Cove's certificate",
			"sandbox", c.opened.Sandbox, "name", c.name, "alert", printable(alert.Err.Error()))
		return nil, c.fail("TLS was refused", fmt.Errorf(advice, strings.TrimPrefix(alert.Err.Error(), "tls: "), c.name))
	}
	return nil, c.fail("the TLS handshake failed", err)
}

// isAboutTrust says whether an alert is one that clients send for a certificate that they
// do not accept, RFC 8446, 6.2: bad certificate, unknown authority, and so on.
func isAboutTrust(alert error) bool {
	text := alert.Error()
	return strings.Contains(text, "certificate") || strings.Contains(text, "unknown authority") || strings.Contains(text, "access denied")
}
