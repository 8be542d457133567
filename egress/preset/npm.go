package preset

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
)

// askNpm asks npm for its registry, those of scopes, and its proxies. It lists its
// defaults too, and leaves credentials out.
func askNpm(ctx context.Context, m machine) (*servers, error) {
	npm, err := m.find("npm")
	if err != nil {
		return nil, err
	}
	listing, err := m.ask(ctx, []string{"npm_config_*", "NPM_CONFIG_*"}, npm, "config", "list", "--json")
	if err != nil {
		return nil, err
	}
	var config map[string]any
	if err := json.Unmarshal(listing, &config); err != nil {
		return nil, errors.New("its list of settings can't be read")
	}
	found := &servers{source: "npm config list"}
	if registry, ok := config["registry"].(string); ok && found.add(registry) {
		found.set("npm_config_registry", registry, registry)
	}
	for _, key := range slices.Sorted(maps.Keys(config)) {
		value, ok := config[key].(string)
		switch {
		case !ok || value == "":
		case strings.HasPrefix(key, "@") && strings.HasSuffix(key, ":registry"):
			found.add(value)
		case key == "proxy" || key == "https-proxy":
			found.addProxy(value)
		}
	}
	return found, nil
}
