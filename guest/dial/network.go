package dial

import (
	"context"
	"encoding/json"
	"net"
	"net/http"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/wire"
)

// DialEgress opens a spare stream, on which the agent asks for connections to the outside:
// see wire.EgressPath. The caller serves it, and what comes out of it is the guest's.
func (c *Client) DialEgress(ctx context.Context) (net.Conn, error) {
	return c.upgrade(ctx, "open the way out", "", protocol{wire.EgressProtocol, wire.EgressPath})
}

// SetNetwork tells the agent how far the sandbox reaches from now on.
func (c *Client) SetNetwork(ctx context.Context, setup wire.NetworkSetup) error {
	body, err := json.Marshal(setup)
	if err != nil {
		return fail(ctx, "set network", "", err)
	}
	return c.call(ctx, "set network", http.MethodPost, wire.NetworkPath, body, nil)
}

// ListeningPorts returns the TCP ports inside on which something listens, the agent's own
// not among them, as the guest tells it.
func (c *Client) ListeningPorts(ctx context.Context) ([]cove.ListeningPort, error) {
	const most = 4096
	var told []wire.ListeningPort
	if err := c.call(ctx, "list ports", http.MethodGet, wire.PortsPath, nil, &told); err != nil {
		return nil, err
	}
	ports := make([]cove.ListeningPort, 0, min(len(told), most))
	for _, port := range told[:min(len(told), most)] {
		if port.Port < 1 || port.Port > 65535 {
			continue
		}
		ports = append(ports, cove.ListeningPort{
			Port: port.Port, Address: printable(port.Address), PID: port.PID, Command: printable(port.Command),
		})
	}
	return ports, nil
}
