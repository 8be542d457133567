// Package account provides the users of a sandbox, as its own /etc/passwd and /etc/group
// name them, and a way to touch its files with a user's rights.
package account

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/covehq/cove"
)

// Account is a user to act as.
type Account struct {
	Name   string // as in /etc/passwd, or the number of a user who is not there
	UID    int
	GID    int
	Groups []uint32 // all of them, GID first
	Home   string   // absolute; / for a user without an entry
	Shell  string
}

// Lookup finds an account by "name", "uid", "uid:gid" or "name:group". A number needs no
// entry; an unknown name is cove.Unauthenticated.
func (b *Book) Lookup(spec string) (Account, error) {
	users, groups := b.read()
	name, group, withGroup := strings.Cut(spec, ":")
	a, found := users.find(name)
	if !found {
		a, found = builtin[name]
	}
	if !found {
		uid, err := parseID(name)
		if err != nil {
			return Account{}, unknown("user", name)
		}
		a = Account{Name: name, UID: uid, GID: uid, Home: "/", Shell: "/bin/sh"}
	}
	if withGroup {
		gid, err := groups.find(group)
		if err != nil {
			return Account{}, err
		}
		a.GID, a.Groups = gid, []uint32{uint32(gid)}
		return a, nil
	}
	a.Groups = groups.of(a)
	return a, nil
}

// builtin are the users that every sandbox has, also when its image doesn't name them: the
// one that commands run as by default, and root.
var builtin = map[string]Account{
	cove.DefaultUser: {Name: cove.DefaultUser, UID: 1000, GID: 1000, Home: "/home/user", Shell: "/bin/sh"},
	"root":           {Name: "root", Home: "/root", Shell: "/bin/sh"},
}

// UserName returns the name of a uid, or its number.
func (b *Book) UserName(uid uint32) string {
	users, _ := b.read()
	if name, ok := users.names[int(uid)]; ok {
		return name
	}
	return strconv.FormatUint(uint64(uid), 10)
}

// GroupName returns the name of a gid, or its number.
func (b *Book) GroupName(gid uint32) string {
	_, groups := b.read()
	if name, ok := groups.names[int(gid)]; ok {
		return name
	}
	return strconv.FormatUint(uint64(gid), 10)
}

// users is a parsed /etc/passwd.
type users struct {
	byName map[string]Account
	names  map[int]string
}

func (u *users) find(name string) (Account, bool) {
	if a, ok := u.byName[name]; ok {
		return a, true
	}
	if uid, err := parseID(name); err == nil {
		if known, ok := u.names[uid]; ok {
			return u.byName[known], true
		}
	}
	return Account{}, false
}

func parseUsers(text string) *users {
	u := &users{byName: map[string]Account{}, names: map[int]string{}}
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(fields) < 7 || fields[0] == "" || strings.HasPrefix(fields[0], "#") {
			continue
		}
		uid, errUID := parseID(fields[2])
		gid, errGID := parseID(fields[3])
		if errUID != nil || errGID != nil {
			continue
		}
		a := Account{Name: fields[0], UID: uid, GID: gid, Home: fields[5], Shell: fields[6]}
		if !strings.HasPrefix(a.Home, "/") {
			a.Home = "/"
		}
		if a.Shell == "" {
			a.Shell = "/bin/sh"
		}
		if _, taken := u.byName[a.Name]; !taken { // the first entry counts, as in the C library
			u.byName[a.Name] = a
		}
		if _, taken := u.names[uid]; !taken {
			u.names[uid] = a.Name
		}
	}
	return u
}

// groups is a parsed /etc/group.
type groups struct {
	ids     map[string]int
	names   map[int]string
	members map[string][]uint32 // a user's name -> the groups that list it
}

// of returns all groups of an account.
func (g *groups) of(a Account) []uint32 {
	all := []uint32{uint32(a.GID)}
	for _, gid := range g.members[a.Name] {
		if !slices.Contains(all, gid) {
			all = append(all, gid)
		}
	}
	return all
}

func (g *groups) find(name string) (int, error) {
	if gid, ok := g.ids[name]; ok {
		return gid, nil
	}
	gid, err := parseID(name)
	if err != nil {
		return 0, unknown("group", name)
	}
	return gid, nil
}

func parseGroups(text string) *groups {
	g := &groups{ids: map[string]int{}, names: map[int]string{}, members: map[string][]uint32{}}
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(fields) < 3 || fields[0] == "" || strings.HasPrefix(fields[0], "#") {
			continue
		}
		gid, err := parseID(fields[2])
		if err != nil {
			continue
		}
		if _, taken := g.ids[fields[0]]; !taken {
			g.ids[fields[0]] = gid
		}
		if _, taken := g.names[gid]; !taken {
			g.names[gid] = fields[0]
		}
		if len(fields) < 4 {
			continue
		}
		for member := range strings.SplitSeq(fields[3], ",") {
			if member != "" {
				g.members[member] = append(g.members[member], uint32(gid))
			}
		}
	}
	return g
}

// parseID reads a uid or gid. The highest number means "none" to the kernel.
func parseID(s string) (int, error) {
	id, err := strconv.ParseUint(s, 10, 32)
	if err != nil || id == 1<<32-1 {
		return 0, fmt.Errorf("%q is not an id", s)
	}
	return int(id), nil
}

func unknown(what, name string) error {
	return cove.Errorf(cove.Unauthenticated, "", "", fmt.Sprintf("%s %q is unknown in this sandbox", what, name),
		"name one of its /etc/passwd, or a number as in 1000 or 1000:1000")
}

// Resolve makes a path absolute: one that is relative, or begins with ~, is below the
// account's home. An empty path is the home itself.
func (a Account) Resolve(path string) string {
	if path == "~" || strings.HasPrefix(path, "~/") {
		path = path[1:]
		return filepath.Join(a.Home, path)
	}
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(a.Home, path)
}
