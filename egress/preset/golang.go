package preset

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/covehq/cove"
)

// askGo asks the go command for its module proxies and its checksum database.
func askGo(ctx context.Context, m machine) (*servers, error) {
	command, err := m.find("go")
	if err != nil {
		return nil, err
	}
	listing, err := m.ask(ctx, []string{"GO*", "GOTOOLCHAIN=local"}, command, "env", "-json", "GOPROXY", "GOSUMDB")
	if err != nil {
		return nil, err
	}
	var env struct{ GOPROXY, GOSUMDB string }
	if err := json.Unmarshal(listing, &env); err != nil {
		return nil, errors.New("what go env says can't be read")
	}
	found := &servers{source: "go env"}
	proxies := strings.FieldsFunc(env.GOPROXY, func(r rune) bool { return r == ',' || r == '|' })
	found.set("GOPROXY", env.GOPROXY, proxies...)
	found.set("GOSUMDB", env.GOSUMDB, strings.Fields(env.GOSUMDB)...)
	direct := false
	for _, proxy := range proxies {
		proxy = strings.TrimSpace(proxy)
		direct = direct || proxy == "direct"
		found.add(proxy)
	}
	if len(found.rules) == 0 && direct {
		return nil, cove.Errorf(cove.Unavailable, "", "", "it fetches each module from a host of its own, as GOPROXY is direct",
			"allow those hosts by their names, or set GOPROXY")
	}
	// NAME, NAME+KEY or NAME+KEY URL; without an URL, the name is one: go help module-auth.
	if database := strings.Fields(env.GOSUMDB); len(database) > 0 && database[0] != "off" {
		name, _, _ := strings.Cut(database[0], "+")
		at := "https://" + name
		if len(database) > 1 {
			at = database[1]
		}
		found.add(at)
	}
	return found, nil
}
