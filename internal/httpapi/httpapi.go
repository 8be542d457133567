// Package httpapi provides what the HTTP server and its Go client must agree on: the
// names of headers and content types, the table of codes and statuses, the error
// envelope, and the frames of a stream.
package httpapi

import "time"

// The content types of requests and replies.
const (
	TypeJSON   = "application/json"
	TypeSSE    = "text/event-stream"
	TypeFrames = "application/vnd.cove.stream" // frames, see AppendFrame
	TypeBytes  = "application/octet-stream"
	TypeTar    = "application/x-tar"
	TypeForm   = "multipart/form-data"
)

// The headers that have a meaning of ours.
const (
	HeaderRequestID      = "X-Request-Id"
	HeaderIdempotencyKey = "Idempotency-Key"
	HeaderLastEventID    = "Last-Event-Id"
	HeaderPrefix         = "X-Forwarded-Prefix"
	HeaderPreviewToken   = "Cove-Preview-Token"
	HeaderAPIKey         = "X-Api-Key" // or Authorization: Bearer
)

// QueryPreviewToken is the parameter of a preview's address that has its token.
const QueryPreviewToken = "cove_preview_token"

// UpgradeTCP is the protocol that GET …/ports/{port} is upgraded to: the bytes of one
// TCP connection to a port inside, both ways.
const UpgradeTCP = "cove-tcp"

// KeepAlive is how long a stream stays silent before the server sends something without
// meaning, so that both ends notice a connection that died.
const KeepAlive = 15 * time.Second

// End, as an offset in a query, stands for the end of a stream: only what is written
// from now on.
const End = "end"

// The most that one message may carry.
const (
	MaxFrame = 16 << 20 // payload of a frame; the server sends far smaller ones
	MaxError = 1 << 20  // body of a reply that is an error
)
