package dial

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/covehq/cove"
)

// maxJSON bounds a reply in JSON.
const maxJSON = 1 << 20

// Init sets what commands get when their request does not say.
type Init struct {
	Env     map[string]string
	User    string // a name, uid or uid:gid
	Workdir string
	// Memory is how many bytes the sandbox may use, from which the agent derives how much
	// output it keeps. 0 leaves that to what it sees, which on a shared kernel may be the
	// host's.
	Memory int64
	// Ulimits are the resource limits of commands.
	Ulimits []cove.Ulimit
	// Capabilities are added to those of commands, by the names of a Spec.
	Capabilities []string
	// Dropped are the capabilities that root's commands don't have.
	Dropped []string
	// Accounts has the users that every sandbox has named in /etc/passwd and /etc/group, where
	// the image doesn't and these can be written to.
	Accounts bool
}

// Init sets the sandbox's defaults for commands. It may be called again.
func (c *Client) Init(ctx context.Context, i Init) error {
	body, err := json.Marshal(map[string]any{
		"envVars": i.Env, "defaultUser": i.User, "defaultWorkdir": i.Workdir, "memory": i.Memory,
		"ulimits": i.Ulimits, "capabilities": i.Capabilities, "dropped": i.Dropped, "accounts": i.Accounts,
	})
	if err != nil {
		return fail(ctx, "init", "", err)
	}
	return c.call(ctx, "init", http.MethodPost, "/init", body, nil)
}

// Health succeeds when the agent answers.
func (c *Client) Health(ctx context.Context) error {
	return c.call(ctx, "health", http.MethodGet, "/health", nil, nil)
}

// Metrics is what a sandbox uses, as seen from inside.
type Metrics struct {
	Timestamp int64   `json:"ts"` // seconds since the Unix epoch
	CPUs      float64 `json:"cpu_count"`
	CPUUsed   float64 `json:"cpu_used_pct"` // of one processor, in percent, since the previous call
	CPUTime   int64   `json:"cpu_time_ms"`  // of all that ran so far, in milliseconds; 0 of a foreign agent
	MemTotal  uint64  `json:"mem_total"`    // bytes, as all that follow
	MemUsed   uint64  `json:"mem_used"`
	MemCache  uint64  `json:"mem_cache"`
	DiskUsed  uint64  `json:"disk_used"` // 0 where the kernel does not tell, as DiskTotal
	DiskTotal uint64  `json:"disk_total"`
	Processes int     `json:"processes"`
}

// Metrics returns what the sandbox uses.
func (c *Client) Metrics(ctx context.Context) (Metrics, error) {
	var m Metrics
	err := c.call(ctx, "metrics", http.MethodGet, "/metrics", nil, &m)
	return m, err
}

// call makes a plain HTTP call with one short reply, and decodes it into reply unless that
// is nil.
func (c *Client) call(ctx context.Context, op, method, endpoint string, body []byte, reply any) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(call, method, base+endpoint, bytes.NewReader(body))
	if err != nil {
		return fail(call, op, "", err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return fail(call, op, "", cause(err))
	}
	if response.StatusCode >= http.StatusBadRequest {
		return failStatus(op, "", response)
	}
	defer response.Body.Close()
	if reply == nil {
		return nil
	}
	return fail(call, op, "", decode(response.Body, reply))
}

// decode reads a bounded reply in JSON.
func decode(r io.Reader, reply any) error {
	body, err := io.ReadAll(io.LimitReader(r, maxJSON+1))
	if err != nil {
		return err
	}
	if len(body) > maxJSON {
		return errors.New("the guest agent's reply is too large")
	}
	if err := json.Unmarshal(body, reply); err != nil {
		return errors.New("the guest agent's reply is not what was asked for")
	}
	return nil
}
