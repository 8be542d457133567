package cove

// Build describes a running daemon.
type Build struct {
	Version string `json:"version" doc:"release of Cove" example:"0.1.0"`
	API     string `json:"api" doc:"version of the HTTP API" example:"v1"`
	Go      string `json:"go" doc:"Go release it was built with"`
	OS      string `json:"os" example:"linux"`
	Arch    string `json:"arch" example:"amd64"`
}
