// Package wire is the protocol between the host and the guest agent: the .proto
// files of E2B's envd services, extended by fields numbered 100 and up, and of
// the one service that Cove adds. The Go code is generated into gen.
package wire

//go:generate go run ./generate process/process.proto filesystem/filesystem.proto guest/guest.proto
