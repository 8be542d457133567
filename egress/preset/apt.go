package preset

import (
	"context"
	"strings"
)

// askApt asks apt for the sites of its sources, of whatever format they are, and for its
// proxies.
func askApt(ctx context.Context, m machine) (*servers, error) {
	get, err := m.find("apt-get")
	if err != nil {
		return nil, err
	}
	variables := []string{"APT_CONFIG"}
	uris, err := m.ask(ctx, variables, get, "update", "--print-uris") // and does nothing
	if err != nil {
		return nil, err
	}
	found := &servers{source: "apt's sources"}
	for line := range strings.Lines(string(uris)) { // 'URI' FILE SIZE
		if uri, _, ok := strings.Cut(strings.TrimPrefix(line, "'"), "' "); ok {
			found.addSource(uri)
		}
	}
	dump, err := m.find("apt-config")
	if err != nil {
		return nil, err
	}
	settings, err := m.ask(ctx, variables, dump, "dump", "--format", "%f %v%n")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(settings)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		parts := strings.Split(strings.ToLower(key), "::")
		// Acquire::http::Proxy, and Acquire::http::Proxy::HOST for one host.
		if len(parts) >= 3 && parts[0] == "acquire" && parts[2] == "proxy" && value != "" && !strings.EqualFold(value, "DIRECT") {
			found.addProxy(value)
		}
	}
	return found, nil
}

// addSource adds the server of a source, or those of a list of mirrors.
func (s *servers) addSource(uri string) {
	list, ok := strings.CutPrefix(uri, "mirror+")
	if !ok {
		if !strings.HasPrefix(uri, "cdrom:") && !strings.HasPrefix(uri, "copy:") {
			s.add(uri)
		}
		return
	}
	path, ok := strings.CutPrefix(list, "file:")
	if !ok {
		s.add(list)
		s.warn("a list of mirrors is on a server; the mirrors themselves are left out")
		return
	}
	path, _, _ = strings.Cut(path, "/dists/")
	content, err := readFile("/" + strings.TrimLeft(path, "/"))
	if err != nil {
		s.warn("a list of mirrors can't be read, and is left out")
		return
	}
	for line := range strings.Lines(string(content)) {
		mirror, _, _ := strings.Cut(line, "#")
		if fields := strings.Fields(mirror); len(fields) > 0 {
			s.add(fields[0])
		}
	}
}
