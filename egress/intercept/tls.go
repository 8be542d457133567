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
	c.guest.tail = []byte{}
	conn := tls.Server(c.guest, c.tlsConfig())
	err := conn.HandshakeContext(ctx)
	if err == nil {
		c.guest.tail = nil
		return conn, nil
	}
	if alert := c.distrust(err); alert != "" {
		const advice = "the client does not trust Cove's certificate (%s): it has roots of its own or pins a certificate; " +
			"let it use the system's roots, or take away the request rules and secrets for %s, without which its TLS passes unopened"
		c.opener.o.Logger.Warn("the client does not trust Cove's certificate",
			"sandbox", c.opened.Sandbox, "name", c.name, "alert", printable(alert))
		return nil, c.fail("TLS was refused", fmt.Errorf(advice, alert, c.name))
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the program left")
	}
	return nil, c.fail("the TLS handshake failed", err)
}

// distrust returns the alert by which a client refused a certificate, or "". Its codes are
// those from bad_certificate to access_denied, RFC 8446, section 6.2.
func (c *connection) distrust(err error) string {
	text := ""
	var remote *net.OpError
	if code, ok := c.guest.alert(); ok {
		text = tls.AlertError(code).Error()
	} else if errors.As(err, &remote) && remote.Op == "remote error" {
		text = remote.Err.Error()
	}
	if strings.Contains(text, "certificate") || strings.Contains(text, "access denied") {
		return strings.TrimPrefix(text, "tls: ")
	}
	return ""
}
