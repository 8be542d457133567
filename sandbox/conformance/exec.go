package conformance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
)

func execChecks() []check {
	return []check{
		{"exit-codes", "The exit code is the command's.", Needs{}, execExitCodes},
		{"streams", "Standard output and standard error are told apart.", Needs{}, execStreams},
		{"arguments", "Arguments arrive as they were given.", Needs{}, execArguments},
		{"environment", "A command has the sandbox's environment and its own.", Needs{}, execEnvironment},
		{"working-directory", "A command begins in /workspace, or where it was told to; a directory that is missing is an error.", Needs{}, execCwd},
		{"user", "A command runs as uid and gid 1000 with home /home/user.", Needs{Control: cove.ControlUser}, execUser},
		{"user-by-name", "A command runs as another user of the sandbox when told to.", Needs{Control: cove.ControlUser}, execUserByName},
		{"missing-program", "A program that does not exist is an error or exit code 127.", Needs{}, execMissing},
		{"standard-input", "Standard input is what is written, whatever bytes, and ends when it is closed.", Needs{}, execStdin},
		{"no-input", "Without standard input a command reads its end at once.", Needs{}, execNoStdin},
		{"large-output", "Sixteen mebibytes of output arrive whole.", Needs{}, execLargeOutput},
		{"offsets", "The offsets of what arrives leave nothing out and repeat nothing.", Needs{}, execOffsets},
		{"terminal", "A command that is given a terminal has one, of that size.", Needs{}, execTerminal},
		{"terminal-input", "A command that reads its terminal waits for input.", Needs{}, execTerminalInput},
		{"resize", "A terminal takes a new size, and its command is told (SIGWINCH).", Needs{}, execResize},
		{"background", "A command goes on when nobody reads, and is followed later from its start.", Needs{}, execBackground},
		{"follow-from-offset", "A command that has ended is read from any offset.", Needs{}, execFollowOffset},
		{"list", "What was started is listed with its tag, while it runs and when it has ended.", Needs{}, execList},
		{"signal", "A signal reaches the command.", Needs{}, execSignal},
		{"ended-by-signal", "A command that a signal ended says which.", Needs{}, execEndedBySignal},
		{"reaps-orphans", "The first process reaps what others leave.", Needs{}, execReaps},
	}
}

func execExitCodes(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	for _, code := range []int{0, 1, 7, 126, 255} {
		r, err := x.sh(ctx, fmt.Sprintf("exit %d", code))
		if err != nil {
			return err
		}
		if err := errors.Join(equal("exit code", r.exit.Code, code), equal("signal", r.exit.Signal, "")); err != nil {
			return err
		}
	}
	return nil
}

func execStreams(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	r, err := x.sh(ctx, "echo out; echo err >&2; echo out")
	if err != nil {
		return err
	}
	return errors.Join(equal("stdout", string(r.stdout), "out\nout\n"), equal("stderr", string(r.stderr), "err\n"))
}

func execArguments(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	arguments := []string{"", " two  spaces ", "a\nb", `"'\$(id)`, "-n", "ünï", strings.Repeat("long", 16<<10)}
	r, err := x.run(ctx, dial.Start{Argv: append([]string{"/bin/sh", "-c", `printf '%s|' "$@"`, "sh"}, arguments...)})
	if err != nil {
		return err
	}
	return equal("arguments", string(r.stdout), strings.Join(arguments, "|")+"|")
}

func execEnvironment(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	start := shell(`printf '%s|%s|' "$COVE_OWN" "$COVE_SPEC"; command -v cat >/dev/null && echo path`)
	start.Env = map[string]string{"COVE_OWN": "a b\n'c'"}
	r, err := x.run(ctx, start)
	if err != nil {
		return err
	}
	return equal("its own, the sandbox's, and a path to programs", string(r.stdout), "a b\n'c'|"+x.spec.Env["COVE_SPEC"]+"|path\n")
}

func execCwd(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	if err := x.prints(ctx, "default directory", "pwd -P", x.spec.Workdir); err != nil {
		return err
	}
	r, err := x.run(ctx, dial.Start{Argv: []string{"/bin/sh", "-c", "pwd -P"}, Cwd: "/tmp"})
	if err != nil {
		return err
	}
	if err := equal("directory", string(r.stdout), "/tmp\n"); err != nil {
		return err
	}
	if _, err := x.run(ctx, dial.Start{Argv: []string{"/bin/sh", "-c", "pwd"}, Cwd: "/nowhere"}); err == nil {
		return errors.New("in a directory that is missing: got no error, want one")
	}
	return nil
}

func execUser(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	return x.prints(ctx, "uid, gid, groups and home", `echo "$(id -u) $(id -g) $(id -G) $HOME"`, "1000 1000 1000 /home/user")
}

func execUserByName(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	r, err := x.shAs(ctx, "nobody", "id -u")
	if err != nil {
		return err
	}
	if err := equal("uid of nobody", string(r.stdout), "65534\n"); err != nil {
		return err
	}
	if r, err := x.shAs(ctx, "no-such-user", "id -u"); err == nil {
		return fmt.Errorf("as a user that does not exist: got uid %q, want an error", r.stdout)
	}
	return nil
}

func execMissing(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	r, err := x.run(ctx, dial.Start{Argv: []string{"/nowhere/program"}})
	if err != nil {
		return nil
	}
	return equal("exit code of a program that does not exist", r.exit.Code, 127)
}

// feed runs a command with standard input.
func (x *box) feed(ctx context.Context, start dial.Start, input []byte) (result, error) {
	start.Stdin = true
	stream, err := x.guest.Start(ctx, start)
	if err != nil {
		return result{}, fmt.Errorf("start %q: %w", start.Argv, err)
	}
	defer stream.Close()
	fed := make(chan error, 1)
	go func() {
		err := x.guest.Write(ctx, stream.PID, bytes.NewReader(input))
		fed <- errors.Join(err, x.guest.CloseStdin(ctx, stream.PID))
	}()
	r, err := collect(stream)
	stream.Close()
	return r, errors.Join(err, <-fed)
}

// noise returns bytes of every value, the same for a seed.
func noise(size int) []byte {
	data := make([]byte, size)
	source := rand.NewChaCha8([32]byte{'c', 'o', 'v', 'e'})
	_, _ = source.Read(data) // never fails
	return data
}

func sum(data []byte) string {
	hash := sha256.Sum256(data)
	return hex.EncodeToString(hash[:])
}

// shortly bounds what should take no time, so that a promise of an end that is not kept
// fails with what was going on.
func shortly(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, 10*time.Second)
}

func execStdin(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := shortly(ctx)
	defer cancel()
	input := noise(1 << 20)
	r, err := x.feed(ctx, dial.Start{Argv: []string{"cat"}}, input)
	if err != nil {
		return err
	}
	return equal("hash of what came back", sum(r.stdout), sum(input))
}

func execNoStdin(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := shortly(ctx)
	defer cancel()
	return x.prints(ctx, "cat without input", "cat; echo end", "end")
}

func execLargeOutput(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	own := &box{guest: dial.New(x.machine.Dial)}
	defer own.guest.Close()
	hash, err := own.print(ctx, "head -c 16777216 /dev/urandom > /tmp/large && sha256sum < /tmp/large")
	if err != nil {
		return err
	}
	r, err := own.sh(ctx, "cat /tmp/large; rm /tmp/large")
	if err != nil {
		return err
	}
	return errors.Join(
		equal("bytes of output", len(r.stdout), 16<<20),
		equal("hash of the output", sum(r.stdout), strings.Fields(hash)[0]),
	)
}

func execOffsets(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	stream, err := x.guest.Start(ctx, shell("head -c 1000000 /dev/zero; head -c 100000 /dev/zero >&2"))
	if err != nil {
		return err
	}
	defer stream.Close()
	next := map[cove.Stream]uint64{}
	for {
		output, err := stream.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if output.Exit != nil {
			continue
		}
		if err := equal("offset on "+string(output.Stream), output.Offset, next[output.Stream]); err != nil {
			return err
		}
		next[output.Stream] += uint64(len(output.Data))
	}
	return errors.Join(equal("bytes on stdout", next[cove.Stdout], 1000000), equal("bytes on stderr", next[cove.Stderr], 100000))
}
