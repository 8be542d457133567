package server

import "github.com/covehq/cove"

// anybody is the scope of what is answered without a key. It tells nothing that who can
// connect does not know.
const anybody cove.Scope = "anybody"

// scopes returns what a key needs for each route; a test has every route in it. Only
// admins get to one that is missing.
//
// What is of a sandbox is its owner's: to look at with read, and to use with run. What all
// owners share they may look at, and fetch an image; admins change it. Who can give an
// image another one's name chooses what others run. Who can change where a secret goes gets
// it: an owner sets and removes its own, which its own sandboxes alone may use, and those of
// everybody only admins do. sandbox.Host holds that, by whose key it is.
func scopes() map[string]cove.Scope {
	const box = "/v1/sandboxes/{id}"
	return map[string]cove.Scope{
		"GET /healthz": anybody,

		"GET /v1/version":            cove.ScopeRead,
		"GET /v1/runtimes":           cove.ScopeRead,
		"GET /v1/events":             cove.ScopeRead,
		"GET /v1/network/presets":    cove.ScopeRead,
		"GET /v1/tools":              cove.ScopeRead,
		"GET /openapi.json":          cove.ScopeRead,
		"GET /docs":                  cove.ScopeRead,
		"GET /docs/{file}":           cove.ScopeRead,
		"GET /metrics":               cove.ScopeAdmin, // of everybody's sandboxes
		"GET /v1/keys":               cove.ScopeAdmin,
		"POST /v1/keys":              cove.ScopeAdmin,
		"DELETE /v1/keys/{name}":     cove.ScopeAdmin,
		"GET /v1/secrets":            cove.ScopeRead, // without values
		"GET /v1/secrets/{name}":     cove.ScopeRead,
		"PUT /v1/secrets/{name}":     cove.ScopeRun, // the owner's; an admin's are everybody's
		"DELETE /v1/secrets/{name}":  cove.ScopeRun,
		"GET /v1/images":             cove.ScopeRead,
		"GET /v1/images/{reference}": cove.ScopeRead,
		"POST /v1/images":            cove.ScopeRun, // as creating a sandbox of it does
		"POST /v1/images/import":     cove.ScopeAdmin,
		"POST /v1/images/prune":      cove.ScopeAdmin,

		"DELETE /v1/images/{reference}": cove.ScopeAdmin,

		"POST /mcp":   cove.ScopeRun,
		"GET /mcp":    cove.ScopeRun,
		"DELETE /mcp": cove.ScopeRun,

		"GET /v1/sandboxes":             cove.ScopeRead,
		"POST /v1/sandboxes":            cove.ScopeRun,
		"POST /v1/run":                  cove.ScopeRun,
		"GET " + box:                    cove.ScopeRead,
		"PATCH " + box:                  cove.ScopeRun,
		"DELETE " + box:                 cove.ScopeRun,
		"GET " + box + "/stats":         cove.ScopeRead,
		"POST " + box + "/exec":         cove.ScopeRun,
		"POST " + box + "/tools/{tool}": cove.ScopeRun,

		"GET " + box + "/processes":               cove.ScopeRead,
		"POST " + box + "/processes":              cove.ScopeRun,
		"GET " + box + "/processes/{pid}":         cove.ScopeRead,
		"DELETE " + box + "/processes/{pid}":      cove.ScopeRun,
		"GET " + box + "/processes/{pid}/output":  cove.ScopeRead,
		"GET " + box + "/processes/{pid}/tty":     cove.ScopeRun, // who attaches can type
		"POST " + box + "/processes/{pid}/signal": cove.ScopeRun,
		"POST " + box + "/processes/{pid}/resize": cove.ScopeRun,
		"POST " + box + "/processes/{pid}/stdin":  cove.ScopeRun,

		"HEAD " + box + "/files":        cove.ScopeRead,
		"GET " + box + "/files":         cove.ScopeRead,
		"PUT " + box + "/files":         cove.ScopeRun,
		"DELETE " + box + "/files":      cove.ScopeRun,
		"GET " + box + "/files/list":    cove.ScopeRead,
		"GET " + box + "/files/stat":    cove.ScopeRead,
		"GET " + box + "/files/watch":   cove.ScopeRead,
		"GET " + box + "/files/archive": cove.ScopeRead,
		"PUT " + box + "/files/archive": cove.ScopeRun,
		"POST " + box + "/files/mkdir":  cove.ScopeRun,
		"POST " + box + "/files/move":   cove.ScopeRun,

		"GET " + box + "/network":     cove.ScopeRead,
		"PATCH " + box + "/network":   cove.ScopeRun,
		"GET " + box + "/network/log": cove.ScopeRead,

		"GET " + box + "/ports":              cove.ScopeRead,
		"GET " + portsPath:                   cove.ScopeRun,
		portRoute:                            cove.ScopeRun, // what a GET does is the program's
		"POST " + box + "/previews":          cove.ScopeRun,
		"DELETE " + box + "/previews/{port}": cove.ScopeRun,
	}
}
