package containerd

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	containers "github.com/containerd/containerd/api/services/containers/v1"
	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	version "github.com/containerd/containerd/api/services/version/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/covehq/cove/guest"
)

// fakeEngine is containerd's interface before a virtual machine that isn't one: the agent of
// a sandbox runs in this process, at the other ends of the pipes that the driver made.
type fakeEngine struct {
	address string

	mu       sync.Mutex
	records  map[string]*containers.Container
	machines map[string]*fakeMachine
	onExec   func(*fakeMachine) error // nil: nothing; what happens before a process is added
	onGet    func()                   // nil: nothing; what happens before it tells of a task
}

// fakeMachine is one task.
type fakeMachine struct {
	request *tasks.CreateTaskRequest
	dir     string // the agent's
	agent   *guest.Agent
	serving sync.WaitGroup

	end   sync.Once
	ended chan struct{}
	execs map[string]*tasks.ExecProcessRequest
}

func newFakeEngine(t *testing.T) *fakeEngine {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctd") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	e := &fakeEngine{address: filepath.Join(dir, "sock"), records: map[string]*containers.Container{}, machines: map[string]*fakeMachine{}}
	listener, err := net.Listen("unix", e.address)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(inNamespace))
	containers.RegisterContainersServer(server, fakeContainers{fakeEngine: e})
	tasks.RegisterTasksServer(server, fakeTasks{fakeEngine: e})
	version.RegisterVersionServer(server, fakeVersion{})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		for _, m := range e.machines {
			m.stop()
		}
		server.Stop()
		<-served
		os.RemoveAll(dir)
	})
	return e
}

// inNamespace refuses what is not asked in Cove's namespace.
func inNamespace(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	asked, _ := metadata.FromIncomingContext(ctx)
	if got := asked.Get(namespaces.GRPCHeader); len(got) != 1 || got[0] != namespace {
		return nil, status.Errorf(codes.FailedPrecondition, "asked in namespace %v", got)
	}
	return handle(ctx, request)
}

var errNone = status.Error(codes.NotFound, "there is none")

// only returns the one container and the request to run it.
func (e *fakeEngine) only(t *testing.T) (*containers.Container, *fakeMachine) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, record := range e.records {
		if len(e.records) == 1 && e.machines[id] != nil {
			return record, e.machines[id]
		}
	}
	t.Fatalf("the engine has %d containers and %d tasks, want one", len(e.records), len(e.machines))
	return nil, nil
}

func (e *fakeEngine) machine(id string) (*fakeMachine, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if m := e.machines[id]; m != nil {
		return m, nil
	}
	return nil, errNone
}

func (e *fakeEngine) empty() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.records)+len(e.machines) == 0
}

type fakeVersion struct {
	version.UnimplementedVersionServer
}

func (fakeVersion) Version(context.Context, *emptypb.Empty) (*version.VersionResponse, error) {
	return &version.VersionResponse{Version: "2.2.1"}, nil
}

type fakeContainers struct {
	containers.UnimplementedContainersServer
	*fakeEngine
}

func (f fakeContainers) Create(_ context.Context, r *containers.CreateContainerRequest) (*containers.CreateContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.records[r.Container.ID] = r.Container
	return &containers.CreateContainerResponse{Container: r.Container}, nil
}

func (f fakeContainers) Get(_ context.Context, r *containers.GetContainerRequest) (*containers.GetContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if record := f.records[r.ID]; record != nil {
		return &containers.GetContainerResponse{Container: record}, nil
	}
	return nil, errNone
}

func (f fakeContainers) List(context.Context, *containers.ListContainersRequest) (*containers.ListContainersResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	response := new(containers.ListContainersResponse)
	for _, record := range f.records {
		response.Containers = append(response.Containers, record)
	}
	return response, nil
}

func (f fakeContainers) Delete(_ context.Context, r *containers.DeleteContainerRequest) (*emptypb.Empty, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.records[r.ID] == nil {
		return nil, errNone
	}
	delete(f.records, r.ID)
	return new(emptypb.Empty), nil
}

type fakeTasks struct {
	tasks.UnimplementedTasksServer
	*fakeEngine
}

func (f fakeTasks) Create(_ context.Context, r *tasks.CreateTaskRequest) (*tasks.CreateTaskResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.machines[r.ContainerID] = &fakeMachine{
		request: r, dir: filepath.Join(filepath.Dir(f.address), r.ContainerID), ended: make(chan struct{}), execs: map[string]*tasks.ExecProcessRequest{},
	}
	return &tasks.CreateTaskResponse{ContainerID: r.ContainerID, Pid: uint32(os.Getpid())}, nil
}

func (f fakeTasks) Start(_ context.Context, r *tasks.StartRequest) (*tasks.StartResponse, error) {
	m, err := f.machine(r.ContainerID)
	if err != nil {
		return nil, err
	}
	if r.ExecID != "" {
		return &tasks.StartResponse{}, m.exec(m.execs[r.ExecID])
	}
	return &tasks.StartResponse{}, m.start()
}

func (f fakeTasks) Exec(_ context.Context, r *tasks.ExecProcessRequest) (*emptypb.Empty, error) {
	m, err := f.machine(r.ContainerID)
	if err == nil && f.onExec != nil {
		err = f.onExec(m)
	}
	if err == nil {
		m.execs[r.ExecID] = r
	}
	return new(emptypb.Empty), err
}

func (f fakeTasks) Get(_ context.Context, r *tasks.GetRequest) (*tasks.GetResponse, error) {
	if f.onGet != nil {
		f.onGet()
	}
	m, err := f.machine(r.ContainerID)
	if err != nil {
		return nil, err
	}
	process := &tasktypes.Process{ID: r.ContainerID, Status: tasktypes.Status_RUNNING}
	select {
	case <-m.ended:
		process.Status = tasktypes.Status_STOPPED
	default:
	}
	return &tasks.GetResponse{Process: process}, nil
}

func (f fakeTasks) List(context.Context, *tasks.ListTasksRequest) (*tasks.ListTasksResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	response := new(tasks.ListTasksResponse)
	for id := range f.machines {
		response.Tasks = append(response.Tasks, &tasktypes.Process{ID: id})
	}
	return response, nil
}

func (f fakeTasks) Kill(_ context.Context, r *tasks.KillRequest) (*emptypb.Empty, error) {
	m, err := f.machine(r.ContainerID)
	if err == nil && r.ExecID == "" {
		m.stop()
	}
	return new(emptypb.Empty), err
}

func (f fakeTasks) Wait(ctx context.Context, r *tasks.WaitRequest) (*tasks.WaitResponse, error) {
	m, err := f.machine(r.ContainerID)
	if err != nil || r.ExecID != "" {
		return &tasks.WaitResponse{}, err
	}
	select {
	case <-m.ended:
		return &tasks.WaitResponse{ExitStatus: 137}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f fakeTasks) Delete(_ context.Context, r *tasks.DeleteTaskRequest) (*tasks.DeleteResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.machines[r.ContainerID] == nil {
		return nil, errNone
	}
	delete(f.machines, r.ContainerID)
	return new(tasks.DeleteResponse), nil
}

func (f fakeTasks) DeleteProcess(context.Context, *tasks.DeleteProcessRequest) (*tasks.DeleteResponse, error) {
	return new(tasks.DeleteResponse), nil
}

// ends are a shim's ends of pipes, as one connection.
type ends struct {
	*pipes // deadlines and addresses, of nothing
	in     *os.File
	out    *os.File
}

func (e ends) Read(p []byte) (int, error)  { return e.in.Read(p) }
func (e ends) Write(p []byte) (int, error) { return e.out.Write(p) }
func (e ends) Close() error                { e.in.Close(); return e.out.Close() }

func openEnds(stdin, stdout string) (ends, error) {
	in, err := os.OpenFile(stdin, os.O_RDWR, 0)
	if err != nil {
		return ends{}, err
	}
	out, err := os.OpenFile(stdout, os.O_WRONLY, 0)
	return ends{&pipes{in: in, out: out}, in, out}, err
}

// start runs the agent, on the streams of the first process.
func (m *fakeMachine) start() error {
	conn, err := openEnds(m.request.Stdin, m.request.Stdout)
	if err != nil {
		return err
	}
	m.agent = guest.New(guest.Options{})
	if err := m.agent.Listen(m.dir); err != nil {
		return err
	}
	m.serving.Go(func() { _ = m.agent.Serve() })
	m.agent.ServeConn(conn)
	return nil
}

// exec is what the agent's program does when it is told to connect.
func (m *fakeMachine) exec(r *tasks.ExecProcessRequest) error {
	conn, err := openEnds(r.Stdin, r.Stdout)
	if err != nil {
		return err
	}
	inside, err := net.Dial("unix", filepath.Join(m.dir, "agent.sock"))
	if err != nil {
		return err
	}
	m.serving.Go(func() {
		defer conn.Close()
		_, _ = io.Copy(conn, inside)
	})
	go func() { // ends with the sandbox or with the driver's end of the pipe
		_, _ = io.Copy(inside, conn)
	}()
	return nil
}

// stop ends the sandbox.
func (m *fakeMachine) stop() {
	m.end.Do(func() {
		if m.agent != nil {
			_ = m.agent.Close(context.Background())
			m.serving.Wait()
		}
		close(m.ended)
	})
}
