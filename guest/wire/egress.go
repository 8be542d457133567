package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// The way out of a sandbox. The host opens spare streams to EgressPath, upgraded to
// EgressProtocol, and replaces each that is taken. The agent sends a request on one when a
// program inside looks a name up or connects, and the host answers it. After a connect
// that succeeded the stream is the connection, half-closes included; after anything else
// the next request may follow.
//
// An agent need not wait for the answer to a connect that is Early: what the program says
// may follow the request, for the host to pass on when there is a connection. If none comes
// of it the stream is over.
//
// What is sent are frames: two bytes of length, big-endian, and JSON.
const (
	// EgressPath is where spare streams are opened.
	EgressPath = "/cove/egress"
	// EgressProtocol is their name in the Upgrade header.
	EgressProtocol = "cove-egress"
	// NetworkPath takes a NetworkSetup, by POST.
	NetworkPath = "/cove/network"
	// PortsPath lists the ports inside that something listens on, by GET, as a JSON array
	// of ListeningPort.
	PortsPath = "/cove/ports"
	// maxFrame bounds a frame.
	maxFrame = 4 << 10
)

// The kinds of an EgressRequest.
const (
	EgressLookup  = "lookup"  // may this name be reached, and does it exist?
	EgressConnect = "connect" // open a connection
)

// EgressRequest is what a program inside wants. All of it is the guest's, and hostile.
type EgressRequest struct {
	Kind    string `json:"kind"`
	Name    string `json:"name,omitempty"`    // that was looked up, in lower case without a dot at its end
	Address string `json:"address,omitempty"` // IPv4, of a program that connects without a name
	Port    int    `json:"port,omitempty"`
	Early   bool   `json:"early,omitempty"` // of a connect: see EgressPath
}

// The answers to an EgressRequest.
const (
	EgressOK          = "ok"
	EgressForbidden   = "forbidden"   // no rule allows it
	EgressNotFound    = "not_found"   // the name does not exist
	EgressUnavailable = "unavailable" // it was tried, and failed
)

// EgressReply is the host's answer.
type EgressReply struct {
	Code    string `json:"code"`
	Message string `json:"message,omitempty"` // for the agent's log
}

// NetworkSetup tells the agent how far the sandbox reaches now.
type NetworkSetup struct {
	// Enabled says that something may be reached. Without it, every connection is refused
	// at once, and no lookup succeeds.
	Enabled bool `json:"enabled"`
	// Ports are those that rules name, where the agent has to listen on each: it could not
	// redirect connections.
	Ports []int `json:"ports,omitempty"`
	// CA are certificates in PEM that programs inside are to trust beside their own.
	CA string `json:"ca,omitempty"`
}

// ListeningPort is a TCP port on which something inside listens.
type ListeningPort struct {
	Port    int    `json:"port"`
	Address string `json:"address"`
	PID     int    `json:"pid,omitempty"`
	Command string `json:"command,omitempty"`
}

// WriteFrame sends one message.
func WriteFrame(w io.Writer, message any) error {
	frame, err := AppendFrame(nil, message)
	if err != nil {
		return err
	}
	_, err = w.Write(frame)
	return err
}

// AppendFrame appends one message as WriteFrame sends it.
func AppendFrame(to []byte, message any) ([]byte, error) {
	body, err := json.Marshal(message)
	if err != nil {
		return to, err
	}
	if len(body) > maxFrame {
		return to, fmt.Errorf("a message of %d bytes is too long for a frame", len(body))
	}
	return append(binary.BigEndian.AppendUint16(to, uint16(len(body))), body...), nil
}

// ReadFrame receives one message, and not a byte more. The error is io.EOF at the end of
// the stream.
func ReadFrame(r io.Reader, message any) error {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint16(head[:])
	if size > maxFrame {
		return errors.New("a frame is too long")
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return errors.Join(io.ErrUnexpectedEOF, err)
	}
	return json.Unmarshal(body, message)
}
