package guest_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/covehq/cove/guest"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/guest/wire/gen/filesystem"
	"github.com/covehq/cove/guest/wire/gen/filesystem/filesystemconnect"
	guestwire "github.com/covehq/cove/guest/wire/gen/guest"
	"github.com/covehq/cove/guest/wire/gen/guest/guestconnect"
	"github.com/covehq/cove/guest/wire/gen/process"
	"github.com/covehq/cove/guest/wire/gen/process/processconnect"
)

// These tests speak as foreign clients do: with generated code or by hand, not by package
// dial.

// foreign is a client of the generated code.
type foreign struct {
	process processconnect.ProcessClient
	guest   guestconnect.GuestClient
	files   filesystemconnect.FilesystemClient
}

// eachForeign runs a test in both codecs and both versions of HTTP.
func eachForeign(t *testing.T, test func(t *testing.T, c foreign)) {
	d := newAgent(t, guest.Options{})
	initialized(t, d)
	for _, version := range []string{"HTTP/1.1", "HTTP/2"} {
		for _, codec := range []string{"proto", "json"} {
			t.Run(version+" "+codec, func(t *testing.T) {
				client := httpClient(d, version == "HTTP/2")
				defer client.CloseIdleConnections()
				var options []connect.ClientOption
				if codec == "json" {
					options = append(options, connect.WithProtoJSON())
				}
				test(t, foreign{
					processconnect.NewProcessClient(client, "http://guest", options...),
					guestconnect.NewGuestClient(client, "http://guest", options...),
					filesystemconnect.NewFilesystemClient(client, "http://guest", options...),
				})
			})
		}
	}
}

func TestEveryMethodOfTheWireIsServed(t *testing.T) {
	client := httpClient(newAgent(t, guest.Options{}), false)
	defer client.CloseIdleConnections()
	methods := 0
	for _, file := range []protoreflect.FileDescriptor{process.File_process_process_proto, guestwire.File_guest_guest_proto, filesystem.File_filesystem_filesystem_proto} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				path := fmt.Sprintf("/%s/%s", service.FullName(), service.Methods().Get(j).Name())
				reply, err := client.Post("http://guest"+path, "application/nothing", nil)
				if err != nil {
					t.Fatal(err)
				}
				reply.Body.Close()
				if methods++; reply.StatusCode != http.StatusUnsupportedMediaType {
					t.Errorf("%s answers %d to a body of no known kind, want 415", path, reply.StatusCode)
				}
			}
		}
	}
	if methods != 18 {
		t.Errorf("there are %d methods, want 18", methods)
	}
}

func shellConfig(line string) *process.ProcessConfig {
	return &process.ProcessConfig{Cmd: "/bin/sh", Args: []string{"-c", line}}
}

func byPID(pid uint32) *process.ProcessSelector {
	return &process.ProcessSelector{Selector: &process.ProcessSelector_Pid{Pid: pid}}
}

func byTag(tag string) *process.ProcessSelector {
	return &process.ProcessSelector{Selector: &process.ProcessSelector_Tag{Tag: tag}}
}

// startForeign starts a process and reads its start event.
func startForeign(t *testing.T, c foreign, message *process.StartRequest) (*connect.ServerStreamForClient[process.StartResponse], uint32) {
	t.Helper()
	stream, err := c.process.Start(t.Context(), connect.NewRequest(message))
	if err != nil {
		t.Fatal(err)
	}
	if !stream.Receive() || stream.Msg().Event.GetStart().GetPid() == 0 {
		t.Fatalf("got %v, %v; want the start event", stream.Msg(), stream.Err())
	}
	return stream, stream.Msg().Event.GetStart().Pid
}

func TestProcessServiceForForeignClients(t *testing.T) {
	eachForeign(t, func(t *testing.T, c foreign) {
		ctx := t.Context()
		tag := "tag of " + t.Name()
		message := &process.StartRequest{Process: shellConfig("cat; echo done >&2; exit 3"), Tag: &tag}
		stream, pid := startForeign(t, c, message)

		if _, err := c.process.SendInput(ctx, connect.NewRequest(&process.SendInputRequest{
			Process: byPID(pid), Input: &process.ProcessInput{Input: &process.ProcessInput_Stdin{Stdin: []byte("one ")}},
		})); err != nil {
			t.Errorf("SendInput: %v", err)
		}
		if _, err := c.process.SendInput(ctx, connect.NewRequest(&process.SendInputRequest{
			Process: byPID(pid), Input: &process.ProcessInput{Input: &process.ProcessInput_Pty{Pty: []byte("x")}},
		})); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("SendInput to a terminal that is none: got %v, want invalid_argument", err)
		}
		input := c.process.StreamInput(ctx)
		err := errors.Join(
			input.Send(&process.StreamInputRequest{Event: &process.StreamInputRequest_Start{Start: &process.StreamInputRequest_StartEvent{Process: byTag(tag)}}}),
			input.Send(&process.StreamInputRequest{Event: &process.StreamInputRequest_Keepalive{Keepalive: &process.StreamInputRequest_KeepAlive{}}}),
			input.Send(&process.StreamInputRequest{Event: &process.StreamInputRequest_Data{Data: &process.StreamInputRequest_DataEvent{
				Input: &process.ProcessInput{Input: &process.ProcessInput_Stdin{Stdin: []byte("two")}},
			}}}),
		)
		if _, closeErr := input.CloseAndReceive(); errors.Join(err, closeErr) != nil {
			t.Errorf("StreamInput: %v, %v", err, closeErr)
		}
		if _, err := c.process.CloseStdin(ctx, connect.NewRequest(&process.CloseStdinRequest{Process: byTag(tag)})); err != nil {
			t.Errorf("CloseStdin: %v", err)
		}
		var stdout, stderr string
		var end *process.ProcessEvent_EndEvent
		for stream.Receive() {
			switch e := stream.Msg().Event.Event.(type) {
			case *process.ProcessEvent_Data:
				stdout += string(e.Data.GetStdout())
				stderr += string(e.Data.GetStderr())
			case *process.ProcessEvent_End:
				end = e.End
			}
		}
		if stream.Err() != nil || stdout != "one two" || stderr != "done\n" || end == nil || end.ExitCode != 3 || !end.Exited ||
			end.Status != "exit status 3" || end.GetError() != "exit status 3" {
			t.Errorf("got %q, %q, %v, %v", stdout, stderr, end, stream.Err())
		}
		// It has ended: it is not listed, but it is retained.
		list, err := c.process.List(ctx, connect.NewRequest(&process.ListRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range list.Msg.Processes {
			if p.Pid == pid {
				t.Errorf("an ended process is listed: %v", p)
			}
		}
		again, err := c.process.Connect(ctx, connect.NewRequest(&process.ConnectRequest{Process: byTag(tag)}))
		if err != nil {
			t.Fatal(err)
		}
		var kinds []string
		for again.Receive() {
			kinds = append(kinds, fmt.Sprintf("%T", again.Msg().Event.Event))
		}
		if want := "*process.ProcessEvent_Start *process.ProcessEvent_End"; strings.Join(kinds, " ") != want {
			t.Errorf("Connect after the end: got %v, %v", kinds, again.Err())
		}
	})
}

func TestSignalsAndTerminalsForForeignClients(t *testing.T) {
	eachForeign(t, func(t *testing.T, c foreign) {
		ctx := t.Context()
		stream, pid := startForeign(t, c, &process.StartRequest{
			Process: shellConfig("stty size; sleep 300"), Pty: &process.PTY{Size: &process.PTY_Size{Cols: 90, Rows: 30}},
		})
		if !stream.Receive() || string(stream.Msg().Event.GetData().GetPty()) != "30 90\r\n" {
			t.Errorf("got %v, %v; want the terminal's size", stream.Msg(), stream.Err())
		}
		if _, err := c.process.Update(ctx, connect.NewRequest(&process.UpdateRequest{
			Process: byPID(pid), Pty: &process.PTY{Size: &process.PTY_Size{Cols: 1, Rows: 1}},
		})); err != nil {
			t.Errorf("Update: %v", err)
		}
		list, err := c.process.List(ctx, connect.NewRequest(&process.ListRequest{}))
		if err != nil || len(list.Msg.Processes) != 1 || !list.Msg.Processes[0].Pty || list.Msg.Processes[0].Config.Cmd != "/bin/sh" {
			t.Errorf("List: got %v, %v", list, err)
		}
		if _, err := c.process.SendSignal(ctx, connect.NewRequest(&process.SendSignalRequest{Process: byPID(pid), Signal: process.Signal_SIGNAL_SIGKILL})); err != nil {
			t.Errorf("SendSignal: %v", err)
		}
		var end *process.ProcessEvent_EndEvent
		for stream.Receive() {
			if e := stream.Msg().Event.GetEnd(); e != nil {
				end = e
			}
		}
		if end == nil || end.ExitCode != -1 || end.Exited || end.Status != "signal: killed" || end.GetError() != "signal: killed" {
			t.Errorf("got %v, want what E2B's agent says of a killed process", end)
		}
		for name, err := range map[string]error{
			"SendSignal": second(c.process.SendSignal(ctx, connect.NewRequest(&process.SendSignalRequest{Process: byPID(1 << 30), Signal: 9}))),
			"CloseStdin": second(c.process.CloseStdin(ctx, connect.NewRequest(&process.CloseStdinRequest{Process: byPID(1 << 30)}))),
			"Update":     second(c.process.Update(ctx, connect.NewRequest(&process.UpdateRequest{Process: byTag("none")}))),
			"SendInput":  second(c.process.SendInput(ctx, connect.NewRequest(&process.SendInputRequest{Process: byPID(1 << 30)}))),
			"KillTree":   second(c.guest.KillTree(ctx, connect.NewRequest(&guestwire.KillTreeRequest{Process: byPID(1 << 30)}))),
		} {
			if connect.CodeOf(err) != connect.CodeNotFound {
				t.Errorf("%s of nobody: got %v, want not_found", name, err)
			}
		}
		if _, err := c.process.SendSignal(ctx, connect.NewRequest(&process.SendSignalRequest{Signal: 9})); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("SendSignal without a process: got %v, want invalid_argument", err)
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestFilesystemServiceForForeignClients(t *testing.T) {
	eachForeign(t, func(t *testing.T, c foreign) {
		ctx, dir := t.Context(), t.TempDir()
		watch, err := c.files.WatchDir(ctx, connect.NewRequest(&filesystem.WatchDirRequest{Path: dir}))
		if err != nil {
			t.Fatal(err)
		}
		if !watch.Receive() || watch.Msg().GetStart() == nil {
			t.Fatalf("got %v, %v; want the start event", watch.Msg(), watch.Err())
		}
		made, err := c.files.MakeDir(ctx, connect.NewRequest(&filesystem.MakeDirRequest{Path: dir + "/d"}))
		if err != nil || made.Msg.Entry.Name != "d" || made.Msg.Entry.Type != filesystem.FileType_FILE_TYPE_DIRECTORY || made.Msg.Entry.Permissions != "drwxr-xr-x" {
			t.Errorf("MakeDir: got %v, %v", made, err)
		}
		if !watch.Receive() || watch.Msg().GetFilesystem().GetName() != "d" || watch.Msg().GetFilesystem().GetType() != filesystem.EventType_EVENT_TYPE_CREATE {
			t.Errorf("WatchDir: got %v, %v", watch.Msg(), watch.Err())
		}
		if err := second(c.files.MakeDir(ctx, connect.NewRequest(&filesystem.MakeDirRequest{Path: dir + "/d"}))); connect.CodeOf(err) != connect.CodeAlreadyExists {
			t.Errorf("MakeDir again: got %v, want already_exists", err)
		}
		mustWrite(t, dir+"/d/f", "x")
		if err := os.Symlink("d", dir+"/l"); err != nil {
			t.Fatal(err)
		}
		list, err := c.files.ListDir(ctx, connect.NewRequest(&filesystem.ListDirRequest{Path: dir, Depth: 2}))
		if err != nil || len(list.Msg.Entries) != 3 || list.Msg.Entries[1].Path != dir+"/d/f" || list.Msg.Entries[1].Permissions != "-rw-r--r--" {
			t.Errorf("ListDir: got %v, %v", list, err)
		}
		if link := list.Msg.Entries[2]; link.Type != filesystem.FileType_FILE_TYPE_DIRECTORY || link.GetSymlinkTarget() != dir+"/d" || link.Permissions[0] != 'l' {
			t.Errorf("ListDir: got %v, want a symlink with the type of what it leads to", link)
		}
		moved, err := c.files.Move(ctx, connect.NewRequest(&filesystem.MoveRequest{Source: dir + "/d/f", Destination: dir + "/x/y"}))
		if err != nil || moved.Msg.Entry.Path != dir+"/x/y" || moved.Msg.Entry.Size != 1 || moved.Msg.Entry.ModifiedTime.AsTime().IsZero() {
			t.Errorf("Move: got %v, %v", moved, err)
		}
		if err := second(c.files.Remove(ctx, connect.NewRequest(&filesystem.RemoveRequest{Path: dir + "/x"}))); err != nil {
			t.Errorf("Remove: %v", err)
		}
		if err := second(c.files.Stat(ctx, connect.NewRequest(&filesystem.StatRequest{Path: dir + "/x"}))); connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("Stat of nothing: got %v, want not_found", err)
		}
	})
}

// frames posts JSON frames as E2B's SDK does, and returns those of the reply as text.
func frames(t *testing.T, d dial.Dialer, procedure string, header http.Header, message any) []string {
	t.Helper()
	body, err := json.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	prefix := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body)))
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://guest/"+procedure, bytes.NewReader(append(prefix, body...)))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/connect+json")
	request.Header.Set("Connect-Protocol-Version", "1")
	for key, values := range header {
		request.Header[key] = values
	}
	response, err := httpClient(d, false).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var all []string
	for {
		var head [5]byte
		if _, err := io.ReadFull(response.Body, head[:]); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		frame := make([]byte, binary.BigEndian.Uint32(head[1:]))
		if _, err := io.ReadFull(response.Body, frame); err != nil {
			t.Fatal(err)
		}
		var compact bytes.Buffer // protojson puts spaces where it likes
		if err := json.Compact(&compact, frame); err != nil {
			t.Fatalf("%v in %q", err, frame)
		}
		all = append(all, fmt.Sprintf("%d%s", head[0], compact.Bytes()))
	}
}

func TestFramesOfAStart(t *testing.T) {
	d := newAgent(t, guest.Options{})
	initialized(t, d)
	basic := func(user string) http.Header {
		return http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"))}}
	}
	sh := func(line string) map[string]any {
		return map[string]any{"process": map[string]any{"cmd": "/bin/sh", "args": []string{"-c", line}}, "stdin": false}
	}
	const ok = `0{"event":{"start":{"pid":#}}} 0{"event":{"end":{"exited":true,"status":"exit status 0","durationUs":"#"}}} 2{}`
	for _, test := range []struct {
		name    string
		message any
		header  http.Header
		want    string
	}{
		{"an exit code of 0 is left out", sh("exit 0"), nil, ok},
		{"output is base64", sh("printf hello"), nil, `0{"event":{"start":{"pid":#}}} 0{"event":{"data":{"stdout":"aGVsbG8="}}} ` + ok[strings.Index(ok, "0{\"event\":{\"end"):]},
		{"a timeout of 0 is none", sh("exit 0"), http.Header{"Connect-Timeout-Ms": {"0"}}, ok},
		{"an unknown field is ignored", map[string]any{"process": map[string]any{"cmd": "true", "new": 1}, "more": []int{1}}, nil, ok},
		{"an unknown user is unauthenticated", sh("exit 0"), basic("nosuchuser"), `2{"error":{"code":"unauthenticated","message":"user \"nosuchuser\" is unknown in this sandbox"},`},
		{"no user is the default user", sh("exit 0"), basic(""), ok},
		{"a missing directory is an invalid argument", map[string]any{"process": map[string]any{"cmd": "true", "cwd": "/no/such"}}, nil, `2{"error":{"code":"invalid_argument",`},
		{"the timeout is the process's life", sh("sleep 300"), http.Header{"Connect-Timeout-Ms": {"200"}}, `0{"event":{"start":{"pid":#}}} 2{"error":{"code":"deadline_exceeded",`},
		{
			"keepalives come in silence", sh("sleep 2.5"), http.Header{"Keepalive-Ping-Interval": {"1"}},
			`0{"event":{"start":{"pid":#}}} 0{"event":{"keepalive":{}}} 0{"event":{"keepalive":{}}} ` + ok[strings.Index(ok, "0{\"event\":{\"end"):],
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := strings.Join(frames(t, d, "process.Process/Start", test.header, test.message), " ")
			if !matches(got, test.want) {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// matches compares a text with a beginning in which # is any number.
func matches(text, pattern string) bool {
	for i := 0; i < len(pattern); i++ {
		if pattern[i] == '#' {
			digits := len(text) - len(strings.TrimLeft(text, "0123456789"))
			if digits == 0 {
				return false
			}
			text = text[digits:]
			continue
		}
		if text == "" || text[0] != pattern[i] {
			return false
		}
		text = text[1:]
	}
	return true
}

func TestLifeLimitHoldsWithoutTheClient(t *testing.T) {
	eachForeign(t, func(t *testing.T, c foreign) {
		sleep := nap()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		stream, err := c.process.Start(ctx, connect.NewRequest(&process.StartRequest{Process: shellConfig(fmt.Sprintf("setsid %[1]s & %[1]s", sleep))}))
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the tree runs", func() bool { return alive(sleep) == 2 })
		_ = stream.Close()
		eventually(t, "the tree is dead", func() bool { return alive(sleep) == 0 })
	})
}

func TestUnknownPathsAndMethods(t *testing.T) {
	d := newAgent(t, guest.Options{})
	for path, want := range map[string]int{"/nothing": 404, "/process.Process/Nothing": 404, "/cove/dial": 405, "/init": 405, "/upgrade": 404} {
		if status, _ := get(t, d, path); status != want {
			t.Errorf("GET %s: got %d, want %d", path, status, want)
		}
	}
}
