package cove

import "time"

// DefaultPreviewTTL is how long a preview works that was asked for without a time.
const DefaultPreviewTTL = Duration(24 * time.Hour)

// MaxPreviewTTL is the longest that a preview works.
const MaxPreviewTTL = Duration(30 * 24 * time.Hour)

// PreviewRequest asks for the address of a port inside for a browser.
type PreviewRequest struct {
	Port int      `json:"port" minimum:"1" maximum:"65535" example:"8000"`
	TTL  Duration `json:"ttl,omitempty" doc:"how long it works, up to 30 days; default 24h, and never longer than the sandbox"`
}

// Preview is an address at which a browser reaches a port inside, on an origin of its own.
// Who knows it can use the port.
type Preview struct {
	Port      int       `json:"port"`
	URL       string    `json:"url" doc:"for a browser: carries the token, which is exchanged for a cookie at once"`
	Token     string    `json:"token" doc:"for programs, as the header Cove-Preview-Token"`
	ExpiresAt time.Time `json:"expires_at"`
}
