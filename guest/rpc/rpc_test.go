package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/covehq/cove/guest/rpc"
	"github.com/covehq/cove/guest/wire/gen/filesystem"
	"github.com/covehq/cove/guest/wire/gen/filesystem/filesystemconnect"
	"github.com/covehq/cove/guest/wire/gen/process"
	"github.com/covehq/cove/guest/wire/gen/process/processconnect"
)

// stat replies with the path and a header of the request as a name.
func stat(_ context.Context, header http.Header, in *filesystem.StatRequest) (*filesystem.StatResponse, error) {
	if in.Path == "" {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("no path"))
	}
	return &filesystem.StatResponse{Entry: &filesystem.EntryInfo{Name: in.Path + header.Get("Tail")}}, nil
}

// count sends as many messages as the request has arguments.
func count(_ context.Context, _ http.Header, in *process.StartRequest, send func(*process.StartResponse) error) error {
	for i := range in.Process.Args {
		event := &process.ProcessEvent{Event: &process.ProcessEvent_Start{Start: &process.ProcessEvent_StartEvent{Pid: uint32(i)}}}
		if err := send(&process.StartResponse{Event: event}); err != nil {
			return err
		}
	}
	return nil
}

// take wants three messages.
func take(_ context.Context, _ http.Header, receive func() (*process.StreamInputRequest, error)) (*process.StreamInputResponse, error) {
	for n := 0; ; n++ {
		in, err := receive()
		switch {
		case errors.Is(err, io.EOF) && n == 3:
			return &process.StreamInputResponse{}, nil
		case err != nil:
			return nil, fmt.Errorf("after %d: %w", n, err)
		case string(in.GetData().GetInput().GetStdin()) != fmt.Sprint(n):
			return nil, fmt.Errorf("message %d is %v", n, in)
		}
	}
}

func TestMethodsAreServedInEveryProtocolAndEncoding(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle(rpc.Unary(filesystemconnect.FilesystemStatProcedure, stat))
	mux.Handle(rpc.Outputs(processconnect.ProcessStartProcedure, count))
	mux.Handle(rpc.Inputs(processconnect.ProcessStreamInputProcedure, take))
	server := httptest.NewUnstartedServer(mux)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	for name, options := range map[string][]connect.ClientOption{
		"Connect": nil, "Connect in JSON": {connect.WithProtoJSON()}, "gRPC": {connect.WithGRPC()}, "gRPC-Web in JSON": {connect.WithGRPCWeb(), connect.WithProtoJSON()},
		"compressed": {connect.WithSendGzip()},
	} {
		t.Run(name, func(t *testing.T) {
			files := filesystemconnect.NewFilesystemClient(server.Client(), server.URL, options...)
			request := connect.NewRequest(&filesystem.StatRequest{Path: "/a"})
			request.Header().Set("Tail", "/b")
			if reply, err := files.Stat(t.Context(), request); err != nil || reply.Msg.Entry.GetName() != "/a/b" {
				t.Errorf("one reply: %v, %v", reply, err)
			}
			if _, err := files.Stat(t.Context(), connect.NewRequest(&filesystem.StatRequest{})); connect.CodeOf(err) != connect.CodeNotFound || !strings.Contains(err.Error(), "no path") {
				t.Errorf("an error: %v", err)
			}
			processes := processconnect.NewProcessClient(server.Client(), server.URL, options...)
			stream, err := processes.Start(t.Context(), connect.NewRequest(&process.StartRequest{Process: &process.ProcessConfig{Args: make([]string, 5)}}))
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			n := 0
			for ; stream.Receive(); n++ {
				if pid := stream.Msg().GetEvent().GetStart().GetPid(); int(pid) != n {
					t.Errorf("message %d has %d", n, pid)
				}
			}
			if n != 5 || stream.Err() != nil {
				t.Errorf("%d messages, %v, want 5", n, stream.Err())
			}
			inputs := processes.StreamInput(t.Context())
			for i := range 3 {
				data := &process.StreamInputRequest_DataEvent{Input: &process.ProcessInput{Input: &process.ProcessInput_Stdin{Stdin: []byte(fmt.Sprint(i))}}}
				if err := inputs.Send(&process.StreamInputRequest{Event: &process.StreamInputRequest_Data{Data: data}}); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := inputs.CloseAndReceive(); err != nil {
				t.Errorf("a stream of three: %v", err)
			}
		})
	}
}
