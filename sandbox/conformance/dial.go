package conformance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
)

func agentAnswers(ctx context.Context, b *bench) error {
	spec := b.spec()
	id := newID()
	machine, err := b.driver.Create(ctx, id, &spec)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	b.note(id, spec, machine)
	conn, err := machine.Dial(ctx)
	if err != nil {
		return fmt.Errorf("first dial: %w", err)
	}
	defer conn.Close()
	return health(ctx, conn)
}

// health asks for a sign of life over one connection, by hand.
func health(ctx context.Context, conn net.Conn) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := conn.Write([]byte("GET /health HTTP/1.1\r\nHost: agent\r\n\r\n")); err != nil {
		return fmt.Errorf("ask for health: %w", err)
	}
	response, err := http.ReadResponse(bufio.NewReaderSize(conn, 4096), nil)
	if err != nil {
		return fmt.Errorf("ask for health: %w", err)
	}
	response.Body.Close()
	return equal("status of /health", response.StatusCode, http.StatusNoContent)
}

func agentSpeaksBoth(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
		transport := &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return x.machine.Dial(ctx) },
			Protocols:   new(http.Protocols),
		}
		transport.Protocols.SetHTTP1(version == "HTTP/1.1")
		transport.Protocols.SetUnencryptedHTTP2(version == "HTTP/2.0")
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/health", nil)
		if err != nil {
			return err
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			return fmt.Errorf("health by %s: %w", version, err)
		}
		response.Body.Close()
		transport.CloseIdleConnections()
		if err := errors.Join(equal("protocol", response.Proto, version), equal("status", response.StatusCode, http.StatusNoContent)); err != nil {
			return err
		}
	}
	return nil
}

func dialIsFresh(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	first, err := x.machine.Dial(ctx)
	if err != nil {
		return fmt.Errorf("first dial: %w", err)
	}
	defer first.Close()
	second, err := x.machine.Dial(ctx)
	if err != nil {
		return fmt.Errorf("second dial: %w", err)
	}
	defer second.Close()
	if err := first.Close(); err != nil {
		return err
	}
	if err := health(ctx, second); err != nil {
		return fmt.Errorf("on the second stream, with the first closed: %w", err)
	}
	return nil
}

func dialMany(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	const streams = 48
	conns, errs := make([]net.Conn, streams), make([]error, streams)
	var done sync.WaitGroup
	for i := range streams {
		done.Go(func() {
			if conns[i], errs[i] = x.machine.Dial(ctx); errs[i] == nil {
				errs[i] = health(ctx, conns[i])
			}
		})
	}
	done.Wait()
	for _, conn := range conns {
		if conn != nil {
			conn.Close()
		}
	}
	return errors.Join(errs...)
}

func dialHeedsContext(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	conn, err := x.machine.Dial(ctx)
	if err == nil {
		conn.Close()
		return errors.New("dial with an ended context: got no error, want one")
	}
	return nil
}
