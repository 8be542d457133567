package guest

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/outward"
	"github.com/covehq/cove/guest/wire"
)

// networkVariable is set where the agent is to make a way out of the sandbox. It lists the
// capabilities, as in NET_ADMIN,NET_RAW, that the agent was given for that and for nothing
// else.
const networkVariable = "COVE_NETWORK"

// openWay makes the way out, where there is to be one, and gives away what it took. A
// sandbox in which that fails works, and reaches nothing.
func openWay(l *log.Logger) (*outward.Way, error) {
	names, wanted := os.LookupEnv(networkVariable)
	if !wanted || names == "" {
		return nil, nil
	}
	if err := os.Unsetenv(networkVariable); err != nil {
		return nil, err
	}
	way, err := outward.Open(l)
	if err != nil {
		l.Printf("there is no way out: %v", err)
	}
	var drop []uintptr
	for name := range strings.SplitSeq(names, ",") {
		if n := slices.Index(cove.Capabilities(), name); n >= 0 {
			drop = append(drop, uintptr(n))
		}
	}
	if len(drop) == 0 {
		return way, nil
	}
	return way, dropCapabilities(false, drop...)
}

// serveEgress turns the request's connection into a spare stream to the host.
func (a *Agent) serveEgress(w http.ResponseWriter, r *http.Request) error {
	if r.ProtoMajor != 1 || !strings.EqualFold(r.Header.Get("Upgrade"), wire.EgressProtocol) {
		return cove.Errorf(cove.Invalid, "egress", "", "the request does not upgrade its connection", "send it as HTTP/1.1 with Upgrade: "+wire.EgressProtocol)
	}
	if a.way == nil {
		return noWay("egress")
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	stream, ok := conn.(*net.UnixConn) // as all are, but for standard streams
	if !ok {
		return conn.Close()
	}
	_ = conn.SetDeadline(time.Time{})
	answer := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + wire.EgressProtocol + "\r\n\r\n"
	_, err = io.WriteString(conn, answer)
	// The host speaks when it is asked, and not before.
	if err != nil || buffered.Reader.Buffered() > 0 || !a.way.Put(stream) {
		_ = conn.Close()
	}
	return nil
}

func noWay(op string) error {
	return cove.Errorf(cove.NotSupported, op, "", "this sandbox was made without a way out", "create one whose network is not final, on a network of Cove's")
}

// serveNetwork sets how far the sandbox reaches.
func (a *Agent) serveNetwork(w http.ResponseWriter, r *http.Request) error {
	const most = 1 << 20
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err != nil {
		return err
	}
	var setup wire.NetworkSetup
	if err := json.Unmarshal(data, &setup); err != nil {
		return &cove.Error{Code: cove.Invalid, Op: "network", Err: err, Hint: "send a JSON object"}
	}
	if a.way == nil && setup.Enabled {
		return noWay("network")
	}
	if setup.CA != "" {
		if err := a.trust.add(setup.CA); err != nil {
			return fmt.Errorf("certificates: %w", err)
		}
	}
	if a.way != nil {
		if err := a.way.Set(setup); err != nil {
			return err
		}
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
