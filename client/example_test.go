package client_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

// TestMain leaves the examples out where nothing says which daemon they are for: what they
// do is done for real. test/e2e runs them.
func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv("COVE_URL") == "" {
		if err := flag.Set("test.skip", cmp.Or(flag.Lookup("test.skip").Value.String(), "^Example")); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// sandbox makes the sandbox of an example, and the function that throws it away.
func sandbox(ctx context.Context, spec cove.Spec) (*client.Sandbox, func()) {
	c, err := client.New(client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	s, err := c.Create(ctx, spec, client.CreateOptions{})
	if err != nil {
		log.Fatal(err, "\n", cove.HintOf(err))
	}
	return s, func() {
		if err := s.Remove(context.WithoutCancel(ctx)); err != nil {
			log.Print(err)
		}
		c.Close()
	}
}

// A sandbox for one job: create it, bring a file in, run something, throw it away.
func Example() {
	ctx := context.Background()
	c, err := client.New(client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	sandbox, err := c.Create(ctx, cove.Spec{Limits: cove.Limits{Memory: 256 * cove.MiB}}, client.CreateOptions{})
	if err != nil {
		log.Fatal(err, "\n", cove.HintOf(err))
	}
	defer sandbox.Remove(ctx)
	if _, err := sandbox.Files().WriteFile(ctx, "main.py", strings.NewReader("print(6*7)"), 0o644); err != nil {
		log.Fatal(err)
	}
	out, err := sandbox.CommandContext(ctx, "python3", "main.py").Output()
	var exit *client.ExitError
	if errors.As(err, &exit) {
		log.Fatalf("python ended with %d: %s", exit.ExitCode(), exit.Stderr)
	} else if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s", out)
	// Output: 42
}

// A command whose input and output are this program's.
func ExampleSandbox_Command() {
	s, remove := sandbox(context.Background(), cove.Spec{})
	defer remove()
	cmd := s.Command("sh", "-c", "sort | uniq -c | sort -rn | head -n 1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("pear\nfig\npear\n"), os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		log.Fatal(err)
	}
	// Output: 2 pear
}

// A process that outlives the program which started it.
func ExampleSandbox_Start() {
	ctx := context.Background()
	s, remove := sandbox(ctx, cove.Spec{})
	defer remove()
	process, err := s.Start(ctx, cove.ProcessRequest{Command: cove.Command{Line: "echo one; sleep 0.1; echo two"}, Tag: "tests"})
	if err != nil {
		log.Fatal(err)
	}
	output, err := process.Output(ctx, cove.FromStart(), true)
	if err != nil {
		log.Fatal(err)
	}
	defer output.Close()
	for {
		next, err := output.Next()
		if err != nil {
			break
		}
		os.Stdout.Write(next.Data)
	}
	// Output:
	// one
	// two
}

// The files inside are an fs.FS whose root is /, so what reads one reads them.
func ExampleSandbox_FS() {
	ctx := context.Background()
	s, remove := sandbox(ctx, cove.Spec{})
	defer remove()
	if err := s.Command("sh", "-c", "mkdir -p src/lib && echo a >src/a.go && echo b >src/lib/b.go").Run(); err != nil {
		log.Fatal(err)
	}
	err := fs.WalkDir(s.FS(ctx), "workspace/src", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			fmt.Println(path)
		}
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// workspace/src/a.go
	// workspace/src/lib/b.go
}

// A folder in, commands, and what they changed out, in a sandbox that is gone afterwards.
func ExampleClient_RunFiles() {
	ctx := context.Background()
	c, err := client.New(client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	dir, err := os.MkdirTemp("", "project-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "words"), []byte("b\na\n"), 0o644); err != nil {
		log.Fatal(err)
	}
	request := cove.RunRequest{Commands: []cove.Command{{Line: "sort -o words words"}}}
	result, err := c.RunFiles(ctx, request, dir, dir)
	if err != nil {
		log.Fatal(err, "\n", cove.HintOf(err))
	}
	for _, change := range result.Changes {
		fmt.Println(change.Kind, change.Path)
	}
	sorted, err := os.ReadFile(filepath.Join(dir, "words"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%q\n", sorted)
	// Output:
	// modified words
	// "a\nb\n"
}

// What a model asked for, done in a sandbox.
func ExampleSandbox_CallTool() {
	ctx := context.Background()
	s, remove := sandbox(ctx, cove.Spec{})
	defer remove()
	result, err := s.CallTool(ctx, "run_python", map[string]any{"code": "print(2**10)"})
	if err != nil {
		log.Fatal(err)
	}
	var data struct {
		Stdout   string
		ExitCode int `json:"exit_code"`
	}
	if err := json.Unmarshal(result.Data, &data); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%q %d\n", data.Stdout, data.ExitCode)
	// Output: "1024\n" 0
}

// What a sandbox may reach can be changed while it runs.
func ExampleSandbox_SetNetwork() {
	ctx := context.Background()
	s, remove := sandbox(ctx, cove.Spec{})
	defer remove()
	mode := cove.NetworkAllow
	status, err := s.SetNetwork(ctx, cove.NetworkUpdate{Mode: &mode, Allow: &[]string{"api.example.org:443"}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(status.Network.Mode, status.Network.Allow)
	// Output: allow [api.example.org:443]
}
