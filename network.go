package cove

import "time"

// NetworkMode says how far a sandbox reaches.
type NetworkMode string

// The modes.
const (
	// NetworkNone is loopback alone: no name is resolved and every connection is refused.
	NetworkNone NetworkMode = "none"
	// NetworkAllow is what the rules allow, and nothing else.
	NetworkAllow NetworkMode = "allow"
	// NetworkOpen is every public address but what the rules deny. Private, link-local and
	// metadata addresses and those of the host are never reached by it.
	NetworkOpen NetworkMode = "open"
)

// Network is what a sandbox may reach. A rule is one of
//
//	pypi.org              a name, on ports 80 and 443
//	*.example.org:443     every name below one, on one port
//	db.example.org:5000-5010, db.example.org:*   on some or all ports
//	203.0.113.0/24:5432   addresses, for programs that connect without a name
//	pip                   a preset: the names of a package manager's servers here
//	sandbox:db:5432       a port of another sandbox of the same owner, as db.sandbox
//
// Deny beats allow, and a denial without ports is of all of them.
type Network struct {
	Mode     NetworkMode   `json:"mode,omitempty" enum:"none,allow,open" doc:"none: loopback only; allow: what allow lists; open: public addresses. Default allow with an allow list, else none"`
	Allow    []string      `json:"allow,omitempty" maxItems:"1000" doc:"rules: NAME, *.NAME, ADDRESS or CIDR, each with :PORT, :FROM-TO or :* (80 and 443 without), a preset, or sandbox:NAME:PORT" example:"[\"pip\",\"api.github.com\"]"`
	Deny     []string      `json:"deny,omitempty" maxItems:"1000" doc:"rules that win over allow and open; those without ports are of every port"`
	Requests []RequestRule `json:"requests,omitempty" maxItems:"1000" doc:"rules on HTTP requests, of which the first that matches decides; TLS to their hosts is opened"`
	Secrets  []SecretUse   `json:"secrets,omitempty" maxItems:"100" doc:"secrets that the sandbox uses without seeing them; TLS to their hosts is opened"`
	Limits   NetworkLimits `json:"limits,omitzero"`
	Final    bool          `json:"final,omitempty" doc:"the policy can't be changed later; with mode none nothing is set up for it inside"`
}

// RequestAction is what becomes of a request.
type RequestAction string

// The actions.
const (
	RequestAllow RequestAction = "allow"
	RequestDeny  RequestAction = "deny"
	RequestAudit RequestAction = "audit" // as allow, where a later deny would match it as well
)

// RequestRule decides about HTTP requests to a host that is allowed. Requests to a host
// that has rules, and that none of them matches, are denied.
type RequestRule struct {
	Host    string            `json:"host" doc:"NAME or *.NAME, with :PORT where that is not 80 or 443" example:"api.github.com"`
	Methods []string          `json:"methods,omitempty" doc:"as in GET; default every one"`
	Paths   []string          `json:"paths,omitempty" doc:"globs of the path, in which * stays in a segment and ** does not; default every one" example:"[\"/repos/**\"]"`
	Action  RequestAction     `json:"action,omitempty" enum:"allow,deny,audit" doc:"default allow"`
	Headers map[string]string `json:"headers,omitempty" doc:"headers that are set on the way; no secret may be here"`
}

// SecretPlace is a part of a request in which a placeholder is replaced.
type SecretPlace string

// The places.
const (
	SecretInHeader SecretPlace = "header" // Basic credentials included
	SecretInQuery  SecretPlace = "query"
	SecretInBody   SecretPlace = "body"
)

// SecretUse lets a sandbox use a secret: its programs see a placeholder of the same shape,
// which is replaced on the way to the hosts that the secret is bound to.
type SecretUse struct {
	Name  string        `json:"name" doc:"a secret of the daemon's, or of this sandbox alone where value is given" example:"GITHUB_TOKEN"`
	Hosts []string      `json:"hosts,omitempty" doc:"NAME or *.NAME, with :PORT where that is not 443: where it may go, within what the stored secret is bound to" example:"[\"api.github.com\"]"`
	In    []SecretPlace `json:"in,omitempty" enum:"header,query,body" doc:"default header"`
	Env   string        `json:"env,omitempty" doc:"variable that has the placeholder; default the name"`
	Value string        `json:"value,omitempty" writeOnly:"true" doc:"the secret itself; never read back, and removed with the sandbox"`
}

// NetworkLimits bound what passes. A zero field is the daemon's default.
type NetworkLimits struct {
	Connections int   `json:"connections,omitempty" doc:"at the same time; default 1024" minimum:"0"`
	Rate        Bytes `json:"rate,omitempty" doc:"bytes a second, each way; default no limit"`
	Total       Bytes `json:"total,omitempty" doc:"bytes in all, both ways; default no limit"`
}

// DefaultConnections is how many connections a sandbox may have out at the same time.
const DefaultConnections = 1024

// withDefaults returns the network with its zero fields filled in.
func (n Network) withDefaults() Network {
	mode := NetworkNone
	if len(n.Allow) > 0 || len(n.Secrets) > 0 || len(n.Requests) > 0 {
		mode = NetworkAllow
	}
	setDefault(&n.Mode, mode)
	setDefault(&n.Limits.Connections, DefaultConnections)
	return n
}

// NetworkUpdate changes what a running sandbox may reach. A nil field stays as it is.
// Connections that the new policy does not allow are closed.
type NetworkUpdate struct {
	Mode     *NetworkMode   `json:"mode,omitempty" enum:"none,allow,open"`
	Allow    *[]string      `json:"allow,omitempty"`
	Deny     *[]string      `json:"deny,omitempty"`
	Requests *[]RequestRule `json:"requests,omitempty"`
	Secrets  *[]SecretUse   `json:"secrets,omitempty"`
	Limits   *NetworkLimits `json:"limits,omitempty"`
}

// NetworkStatus is a sandbox's policy and what it has come to.
type NetworkStatus struct {
	Network  Network `json:"network"`
	Open     int     `json:"open" doc:"connections now"`
	Total    int64   `json:"total" doc:"connections so far"`
	Refused  int64   `json:"refused" doc:"lookups, connections and requests that were refused"`
	Received Bytes   `json:"received" doc:"bytes that came in"`
	Sent     Bytes   `json:"sent" doc:"bytes that went out"`
}

// NetworkEventKind is what a NetworkEvent is about.
type NetworkEventKind string

// The kinds.
const (
	NetworkLookup     NetworkEventKind = "lookup"     // of a name; only refused ones are told
	NetworkConnection NetworkEventKind = "connection" // one is made or refused
	NetworkClosed     NetworkEventKind = "closed"     // one has ended; Received and Sent are its bytes
	NetworkRequest    NetworkEventKind = "request"    // of HTTP, where it is looked into
)

// NetworkEvent is one decision about what a sandbox wanted to reach. Names, methods and
// paths are the guest's words, cleaned for a terminal; a query is never part of it.
type NetworkEvent struct {
	Seq      uint64           `json:"seq" doc:"position in the sandbox's log, from 1"`
	Time     time.Time        `json:"time"`
	Kind     NetworkEventKind `json:"kind" enum:"lookup,connection,closed,request"`
	Allowed  bool             `json:"allowed"`
	Rule     string           `json:"rule,omitempty" doc:"the rule that decided, as it was written"`
	Reason   string           `json:"reason,omitempty" doc:"why it was refused or failed, and what would allow it"`
	Name     string           `json:"name,omitempty" doc:"the name that the program asked for"`
	Address  string           `json:"address,omitempty" doc:"the address that was dialled, or that the program named"`
	Port     int              `json:"port,omitempty"`
	Method   string           `json:"method,omitempty"`
	Path     string           `json:"path,omitempty"`
	Status   int              `json:"status,omitempty" doc:"of the reply to a request"`
	Received Bytes            `json:"received,omitempty"`
	Sent     Bytes            `json:"sent,omitempty"`
	Secrets  []string         `json:"secrets,omitempty" doc:"names of the secrets that were put in"`
}

// NetworkPreset is a name for rules.
type NetworkPreset struct {
	Name   string   `json:"name" example:"pip"`
	Rules  []string `json:"rules" doc:"what it means on the daemon's machine"`
	Source string   `json:"source" doc:"where they come from: a client's configuration, or the operator's"`
	Error  string   `json:"error,omitempty" doc:"why it can't be used here"`
	// Env has the client inside use the same servers, where the spec does not say otherwise.
	Env map[string]string `json:"env,omitempty" doc:"variables of every command that make the client inside use the same servers"`
	// Warnings are what else one should know.
	Warnings []string `json:"warnings,omitempty" doc:"servers that are left out, or that a sandbox is not let to"`
}

// Secret is a secret of the daemon's, without its value.
type Secret struct {
	Name      string        `json:"name" example:"GITHUB_TOKEN"`
	Owner     string        `json:"owner,omitempty" doc:"whose it is: its sandboxes alone may use it; absent: everybody's" example:"ci"`
	Hosts     []string      `json:"hosts" doc:"where it may go" example:"[\"api.github.com\"]"`
	In        []SecretPlace `json:"in" doc:"where in a request"`
	CreatedAt time.Time     `json:"created_at"`
	UpdatedAt time.Time     `json:"updated_at"`
}

// SecretInput sets a secret.
type SecretInput struct {
	Value string        `json:"value" writeOnly:"true" maxLength:"65536" doc:"never read back"`
	Hosts []string      `json:"hosts" doc:"NAME or *.NAME, with :PORT where that is not 443"`
	In    []SecretPlace `json:"in,omitempty" enum:"header,query,body" doc:"default header"`
}

// ListeningPort is a TCP port on which something inside listens.
type ListeningPort struct {
	Port    int    `json:"port"`
	Address string `json:"address" doc:"that it listens on inside" example:"0.0.0.0"`
	PID     int    `json:"pid,omitempty" doc:"inside; 0 where it can't be told"`
	Command string `json:"command,omitempty"`
}
