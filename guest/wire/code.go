package wire

import (
	"net/http"

	"connectrpc.com/connect"

	"github.com/covehq/cove"
)

// Names that both ends of the wire use beside the services.
const (
	// CodeHeader names the cove.Code of an error, on HTTP replies and in the metadata of
	// Connect errors: it is finer than the wire's own codes. A foreign agent sends none.
	CodeHeader = "Cove-Code"
	// HintHeader says what to do about an error, beside CodeHeader.
	HintHeader = "Cove-Hint"
	// ExitHeader has the status of a command that could not be started, as shells have it,
	// beside CodeHeader.
	ExitHeader = "Cove-Exit"
	// ResultTrailer follows an archive: ResultOK when it is whole, else what went wrong.
	ResultTrailer = "Cove-Result"
	// ResultOK is the result of a whole archive.
	ResultOK = "ok"
	// StreamProtocol is what a connection is upgraded to when it becomes a raw stream.
	StreamProtocol = "cove-stream"
	// TunnelPath is where a request over HTTP/2 becomes a connection of its own to the agent:
	// its body one way, and the other way its reply, in pieces with their length before them
	// in four bytes, big-endian. A piece of length 0 half-closes that way.
	TunnelPath = "/cove/tunnel"
)

// codes is the table between our codes, Connect's and HTTP statuses. Where one side has
// several for one of the other, the first row counts.
var codes = []struct {
	code    cove.Code
	connect connect.Code
	status  int
}{
	{cove.Invalid, connect.CodeInvalidArgument, http.StatusBadRequest},
	{cove.Unauthenticated, connect.CodeUnauthenticated, http.StatusUnauthorized},
	{cove.Forbidden, connect.CodePermissionDenied, http.StatusForbidden},
	{cove.NotFound, connect.CodeNotFound, http.StatusNotFound},
	{cove.Conflict, connect.CodeAlreadyExists, http.StatusConflict},
	{cove.Conflict, connect.CodeFailedPrecondition, http.StatusPreconditionFailed},
	{cove.Conflict, connect.CodeAborted, http.StatusConflict},
	{cove.Gone, connect.CodeNotFound, http.StatusGone},
	{cove.Invalid, connect.CodeOutOfRange, http.StatusRequestedRangeNotSatisfiable},
	{cove.TooLarge, connect.CodeResourceExhausted, http.StatusRequestEntityTooLarge},
	{cove.NotSupported, connect.CodeUnimplemented, http.StatusNotImplemented},
	{cove.NotSupported, connect.CodeUnimplemented, http.StatusNotAcceptable},
	{cove.NotSupported, connect.CodeUnimplemented, http.StatusUnsupportedMediaType},
	{cove.NotSupported, connect.CodeUnimplemented, http.StatusUpgradeRequired},
	{cove.Exhausted, connect.CodeResourceExhausted, http.StatusTooManyRequests},
	{cove.NoSpace, connect.CodeResourceExhausted, http.StatusInsufficientStorage},
	{cove.Unavailable, connect.CodeUnavailable, http.StatusServiceUnavailable},
	{cove.Unavailable, connect.CodeCanceled, http.StatusBadGateway},
	{cove.Timeout, connect.CodeDeadlineExceeded, http.StatusGatewayTimeout},
	{cove.Internal, connect.CodeInternal, http.StatusInternalServerError},
}

// Connect returns the Connect code for one of ours.
func Connect(code cove.Code) connect.Code {
	for _, row := range codes {
		if row.code == code {
			return row.connect
		}
	}
	return connect.CodeInternal
}

// Status returns the HTTP status for one of our codes.
func Status(code cove.Code) int {
	for _, row := range codes {
		if row.code == code {
			return row.status
		}
	}
	return http.StatusInternalServerError
}

// OfConnect returns our code for an error that came over Connect: the one that its header
// names, else the nearest to its own.
func OfConnect(header string, code connect.Code) cove.Code {
	for _, row := range codes {
		if row.connect == code && (header == "" || header == string(row.code)) {
			return row.code
		}
	}
	if header != "" {
		return OfConnect("", code)
	}
	return cove.Internal
}

// OfStatus returns our code for an HTTP reply: the one that its header names, else the
// nearest to its status.
func OfStatus(header string, status int) cove.Code {
	for _, row := range codes {
		if row.status == status && (header == "" || header == string(row.code)) {
			return row.code
		}
	}
	if header != "" {
		return OfStatus("", status)
	}
	return cove.Internal
}
