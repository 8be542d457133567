package preset

import (
	"context"
	"errors"
	"net/url"
	"strings"

	"github.com/covehq/cove"
)

// pipDefaults has pip say which index it uses when nobody says so, and the host of that
// index's files. The module is pip's own and may go; then only what is configured counts.
const pipDefaults = "from pip._internal.models.index import PyPI; print(PyPI.simple_url); print(PyPI.file_storage_domain)"

// askPip asks the pip of python3. That the files of an index may lie on another host can
// be known of the default one alone: the index says so in its pages.
func askPip(ctx context.Context, m machine) (*servers, error) {
	python, err := m.find("python3", "python")
	if err != nil {
		return nil, err
	}
	variables := []string{"PIP_*"}
	listing, err := m.ask(ctx, variables, python, "-m", "pip", "config", "list")
	if err != nil {
		return nil, err
	}
	config := parsePip(string(listing))
	index, files := "", ""
	if output, err := m.ask(ctx, variables, python, "-c", pipDefaults); err == nil {
		lines := strings.Fields(string(output))
		if len(lines) == 2 {
			index, files = lines[0], lines[1]
		}
	}
	found := &servers{source: "pip config list"}
	indexes := config.values("index-url")
	if len(indexes) == 0 && index != "" {
		indexes, found.source = []string{index}, "pip config list, and the default index of pip"
	}
	if len(config.values("no-index")) > 0 {
		indexes = nil
	} else if len(indexes) == 0 {
		return nil, cove.Errorf(cove.Unavailable, "", "", "it has no index configured, and does not say which one is its default",
			"run pip config set global.index-url with the URL of your index")
	} else {
		if len(config.values("index-url")) > 0 {
			found.set("PIP_INDEX_URL", indexes[0], indexes[0])
		}
		if extra := config.values("extra-index-url"); len(extra) > 0 {
			found.set("PIP_EXTRA_INDEX_URL", strings.Join(extra, " "), extra...)
			indexes = append(indexes, extra...)
		}
	}
	for _, text := range append(indexes, config.values("find-links")...) {
		if found.add(text) && sameHost(text, index) {
			found.add("https://" + files)
		}
	}
	for _, proxy := range config.values("proxy") {
		found.addProxy(proxy)
	}
	if len(found.rules) == 0 {
		return nil, errors.New("it is set up to use no index")
	}
	return found, nil
}

func sameHost(a, b string) bool {
	first, err := url.Parse(a)
	second, otherErr := url.Parse(b)
	return err == nil && otherErr == nil && strings.EqualFold(first.Hostname(), second.Hostname())
}

// pipConfig is what pip config list shows: lists of values by option and by section.
type pipConfig map[string]map[string][]string

// parsePip reads lines as in global.index-url='https://…', in which the value is written
// as Python writes text.
func parsePip(listing string) pipConfig {
	config := pipConfig{}
	for line := range strings.Lines(listing) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		dot := strings.LastIndex(key, ".")
		if dot < 0 || len(value) < 2 {
			continue
		}
		section, option := key[:dot], strings.ReplaceAll(strings.ToLower(key[dot+1:]), "_", "-")
		if config[option] == nil {
			config[option] = map[string][]string{}
		}
		value = strings.NewReplacer(`\n`, " ", `\r`, " ", `\t`, " ").Replace(value[1 : len(value)-1])
		config[option][section] = strings.Fields(value)
	}
	return config
}

// values returns those of an option: that of the environment, else those that commands
// have for themselves and the one of all.
func (c pipConfig) values(option string) []string {
	if own := c[option][":env:"]; len(own) > 0 {
		return off(own)
	}
	var values []string
	for _, section := range []string{"global", "install", "download", "wheel"} {
		values = append(values, c[option][section]...)
	}
	return off(values)
}

// off returns no values for a switch that is off.
func off(values []string) []string {
	if len(values) == 1 {
		switch strings.ToLower(values[0]) {
		case "0", "false", "no", "off":
			return nil
		}
	}
	return values
}
