package account_test

import (
	"encoding/base64"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/account"
)

const (
	passwd = "root:x:0:0:root:/root:/bin/bash\n" +
		"user:x:1000:1000:,,,:/home/user:/bin/zsh\n" +
		"user:x:1:1:a second entry does not count:/:/bin/sh\n" +
		"double:x:1000:1000:a second name for a uid:/double:/bin/sh\n" +
		"relative:x:1001:1001::home:\n" +
		"# comment:x:5:5::/:\n\nbroken\nbadid:x:-1:5::/:/bin/sh\nhuge:x:4294967295:5::/:/bin/sh\n" +
		"12345:x:77:77:a name of digits:/digits:/bin/sh"
	group = "root:x:0:\nuser:x:1000:\naudio:x:29:user,root,\nusers:x:100:user,user\nbroken\n"
)

// open writes account files and opens them.
func open(t *testing.T, passwd, group string) (*account.Book, string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"passwd": passwd, "group": group} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return account.Open(filepath.Join(dir, "passwd"), filepath.Join(dir, "group")), dir
}

func TestLookup(t *testing.T) {
	book, _ := open(t, passwd, group)
	for _, test := range []struct {
		spec string
		want account.Account
	}{
		{"root", account.Account{Name: "root", UID: 0, GID: 0, Groups: []uint32{0, 29}, Home: "/root", Shell: "/bin/bash"}},
		{"user", account.Account{Name: "user", UID: 1000, GID: 1000, Groups: []uint32{1000, 29, 100}, Home: "/home/user", Shell: "/bin/zsh"}},
		{"1000", account.Account{Name: "user", UID: 1000, GID: 1000, Groups: []uint32{1000, 29, 100}, Home: "/home/user", Shell: "/bin/zsh"}},
		{"1000:29", account.Account{Name: "user", UID: 1000, GID: 29, Groups: []uint32{29}, Home: "/home/user", Shell: "/bin/zsh"}},
		{"user:users", account.Account{Name: "user", UID: 1000, GID: 100, Groups: []uint32{100}, Home: "/home/user", Shell: "/bin/zsh"}},
		{"4242", account.Account{Name: "4242", UID: 4242, GID: 4242, Groups: []uint32{4242}, Home: "/", Shell: "/bin/sh"}},
		{"4242:7", account.Account{Name: "4242", UID: 4242, GID: 7, Groups: []uint32{7}, Home: "/", Shell: "/bin/sh"}},
		{"relative", account.Account{Name: "relative", UID: 1001, GID: 1001, Groups: []uint32{1001}, Home: "/", Shell: "/bin/sh"}},
		{"12345", account.Account{Name: "12345", UID: 77, GID: 77, Groups: []uint32{77}, Home: "/digits", Shell: "/bin/sh"}},
	} {
		t.Run(test.spec, func(t *testing.T) {
			got, err := book.Lookup(test.spec)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.Groups, test.want.Groups) {
				t.Errorf("got groups %v, want %v", got.Groups, test.want.Groups)
			}
			got.Groups, test.want.Groups = nil, nil
			if got.Name != test.want.Name || got.UID != test.want.UID || got.GID != test.want.GID || got.Home != test.want.Home || got.Shell != test.want.Shell {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
	for _, spec := range []string{"", "nobody", "user:nogroup", "-1", "4294967295", "4294967296", "1000:", ":1000", "broken", "badid", "huge", "# comment"} {
		if got, err := book.Lookup(spec); !errors.Is(err, cove.Unauthenticated) || cove.HintOf(err) == "" {
			t.Errorf("%q: got %+v, %v; want unauthenticated, with a hint", spec, got, err)
		}
	}
}

func TestNames(t *testing.T) {
	book, _ := open(t, passwd, group)
	for id, want := range map[uint32]string{0: "root", 1000: "user", 4242: "4242"} {
		if got := book.UserName(id); got != want {
			t.Errorf("user %d: got %q, want %q", id, got, want)
		}
	}
	for id, want := range map[uint32]string{29: "audio", 4242: "4242"} {
		if got := book.GroupName(id); got != want {
			t.Errorf("group %d: got %q, want %q", id, got, want)
		}
	}
}

func TestUsersThatEverySandboxHas(t *testing.T) {
	book, _ := open(t, "", "")
	for name, want := range map[string]account.Account{
		"root": {UID: 0, GID: 0, Home: "/root"}, "user": {UID: 1000, GID: 1000, Home: "/home/user"},
	} {
		got, err := book.Lookup(name)
		if err != nil || got.UID != want.UID || got.GID != want.GID || got.Home != want.Home {
			t.Errorf("%s: got %+v, %v; want %+v", name, got, err, want)
		}
	}
}

func TestBookFollowsItsFiles(t *testing.T) {
	book, dir := open(t, passwd, group)
	path := filepath.Join(dir, "passwd")
	find := func(name string) bool {
		_, err := book.Lookup(name)
		return err == nil
	}
	if !find("relative") {
		t.Error("the user is not there")
	}
	if err := os.WriteFile(path, []byte("late:x:5:5::/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if !find("late") || find("relative") {
		t.Error("a change was not seen")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if find("late") {
		t.Error("a removal was not seen")
	}
	if err := syscall.Mkfifo(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if find("late") { // and it returns: a pipe is not waited for
		t.Error("a pipe was read")
	}
}

func TestHugeFilesAreCut(t *testing.T) {
	book, _ := open(t, strings.Repeat("#", 2<<20)+"\nlast:x:1:1::/:/bin/sh\n", group)
	if _, err := book.Lookup("last"); err == nil {
		t.Error("more than the bound was read")
	}
}

func TestResolve(t *testing.T) {
	a := account.Account{Home: "/home/user"}
	for path, want := range map[string]string{
		"": "/home/user", "~": "/home/user", "~/x": "/home/user/x", "x/./y": "/home/user/x/y", "../x": "/home/x",
		"/abs/../x": "/x", "/": "/", "~other": "/home/user/~other", "/..": "/",
	} {
		if got := a.Resolve(path); got != want {
			t.Errorf("%q: got %q, want %q", path, got, want)
		}
	}
}

func TestUserOfARequest(t *testing.T) {
	book, _ := open(t, passwd, group)
	book.SetDefaults(account.Defaults{User: "user"})
	basic := func(text string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(text)) }
	for _, test := range []struct{ name, authorization, want string }{
		{"none is the default", "", "user"},
		{"an empty one is the default", basic(":"), "user"},
		{"a name", basic("root:"), "root"},
		{"a password means nothing", basic("root:secret"), "root"},
		{"without a colon", basic("root"), "root"},
		{"a user and a group", basic("1000:29:"), "user"},
		{"another scheme", "Bearer token", ""},
		{"no base64", "Basic ???", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			header := http.Header{}
			if test.authorization != "" {
				header.Set("Authorization", test.authorization)
			}
			got, err := book.Of(header)
			if test.want == "" && !errors.Is(err, cove.Unauthenticated) || test.want != "" && (err != nil || got.Name != test.want) {
				t.Errorf("got %q, %v; want %q", got.Name, err, test.want)
			}
		})
	}
}

func TestAs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can act as another user")
	}
	book, _ := open(t, passwd, group)
	user, err := book.Lookup("1000")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "cove-as-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chown(dir, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	for i := range 20 {
		go func() {
			defer func() { done <- struct{}{} }()
			path := filepath.Join(dir, string(rune('a'+i)))
			err := book.As(user, func() error {
				if _, err := os.ReadFile(secret); !errors.Is(err, os.ErrPermission) {
					t.Errorf("reading root's file as a user: got %v", err)
				}
				return os.WriteFile(path, nil, 0o644)
			})
			if err != nil {
				t.Error(err)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Error(err)
				return
			}
			if st := info.Sys().(*syscall.Stat_t); st.Uid != 1000 || st.Gid != 1000 {
				t.Errorf("got owner %d:%d, want 1000:1000", st.Uid, st.Gid)
			}
			if _, err := os.ReadFile(secret); err != nil { // this goroutine is root's again
				t.Error(err)
			}
		}()
	}
	for range 20 {
		<-done
	}
	failed := errors.New("failed")
	if err := book.As(user, func() error { return failed }); !errors.Is(err, failed) {
		t.Errorf("got %v, want the function's error", err)
	}
}
