package httpapi

import (
	"net/http"

	"github.com/covehq/cove"
)

// statuses is the one table of codes and their HTTP statuses. It is append-only, as
// the codes are.
var statuses = [...]struct {
	code   cove.Code
	status int
}{
	{cove.Invalid, http.StatusBadRequest},
	{cove.Unauthenticated, http.StatusUnauthorized},
	{cove.Forbidden, http.StatusForbidden},
	{cove.NotFound, http.StatusNotFound},
	{cove.Conflict, http.StatusConflict},
	{cove.Gone, http.StatusGone},
	{cove.TooLarge, http.StatusRequestEntityTooLarge},
	{cove.NotSupported, http.StatusUnprocessableEntity},
	{cove.Exhausted, http.StatusTooManyRequests},
	{cove.Internal, http.StatusInternalServerError},
	{cove.Unavailable, http.StatusServiceUnavailable},
	{cove.Timeout, http.StatusGatewayTimeout},
	{cove.NoSpace, http.StatusInsufficientStorage},
}

// Codes returns every code, in the order of the table.
func Codes() []cove.Code {
	codes := make([]cove.Code, len(statuses))
	for i, row := range statuses {
		codes[i] = row.code
	}
	return codes
}

// Status returns the HTTP status of a code; 500 for one that the table lacks.
func Status(code cove.Code) int {
	for _, row := range statuses {
		if row.code == code {
			return row.status
		}
	}
	return http.StatusInternalServerError
}

// CodeOf returns the code of an HTTP status, also of one that the table lacks: those
// come from net/http, from a proxy between client and server, or from the guest.
func CodeOf(status int) cove.Code {
	for _, row := range statuses {
		if row.status == status {
			return row.code
		}
	}
	switch status {
	case http.StatusBadGateway:
		return cove.Unavailable
	case http.StatusRequestTimeout:
		return cove.Timeout
	case http.StatusRequestHeaderFieldsTooLarge, http.StatusRequestURITooLong:
		return cove.TooLarge
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return cove.NotSupported
	}
	if status >= 400 && status < 500 {
		return cove.Invalid
	}
	return cove.Internal
}
