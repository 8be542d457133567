package guest

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/covehq/cove/guest/wire"
)

// maxListening bounds the ports that are told, and maxSockets the lines that are read.
const maxListening, maxSockets = 4096, 1 << 17

// listening is a socket that listens.
type listening struct {
	at    netip.AddrPort
	inode string
}

// servePorts lists the TCP ports that something listens on, without the agent's own.
func (a *Agent) servePorts(w http.ResponseWriter, _ *http.Request) {
	found := slices.Concat(readListening("/proc/net/tcp"), readListening("/proc/net/tcp6"))
	owners := ownersOf(found)
	ports := []wire.ListeningPort{}
	for _, socket := range found[:min(len(found), maxListening)] {
		if a.way != nil && a.way.Owns(socket.at.Port()) {
			continue
		}
		port := wire.ListeningPort{Port: int(socket.at.Port()), Address: socket.at.Addr().Unmap().String()}
		if pid := owners[socket.inode]; pid != 0 {
			port.PID, port.Command = pid, commandOf(pid)
		}
		ports = append(ports, port)
	}
	slices.SortFunc(ports, func(a, b wire.ListeningPort) int {
		return 2*(a.Port-b.Port) + strings.Compare(a.Address, b.Address)
	})
	writeJSON(w, ports)
}

// readListening reads the sockets that listen from a file of the kernel's.
func readListening(path string) []listening {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	return parseListening(file)
}

func parseListening(from io.Reader) []listening {
	const state, inode, listens = 3, 9, "0A"
	var found []listening
	lines := bufio.NewScanner(from)
	for range maxSockets {
		if !lines.Scan() {
			break
		}
		fields := strings.Fields(lines.Text())
		if len(fields) <= inode || fields[state] != listens {
			continue
		}
		if at, ok := parseSocketAddress(fields[1]); ok {
			found = append(found, listening{at, fields[inode]})
		}
	}
	return found
}

// parseSocketAddress reads ADDRESS:PORT in hexadecimal, the address in words of the
// processor's order.
func parseSocketAddress(text string) (netip.AddrPort, bool) {
	host, service, _ := strings.Cut(text, ":")
	port, err := strconv.ParseUint(service, 16, 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	bytes, err := hex.DecodeString(host)
	if err != nil || len(bytes)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for word := bytes; len(word) > 0; word = word[4:] {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	addr, ok := netip.AddrFromSlice(bytes)
	return netip.AddrPortFrom(addr, uint16(port)), ok
}

// ownersOf returns the processes that have sockets open, by the sockets' inodes.
func ownersOf(sockets []listening) map[string]int {
	owners := map[string]int{}
	if len(sockets) == 0 {
		return owners
	}
	wanted := map[string]bool{}
	for _, socket := range sockets {
		wanted[socket.inode] = true
	}
	processes, _ := os.ReadDir("/proc")
	for _, process := range processes {
		pid, err := strconv.Atoi(process.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir := "/proc/" + process.Name() + "/fd"
		open, _ := os.ReadDir(dir)
		for _, fd := range open {
			link, err := os.Readlink(dir + "/" + fd.Name())
			if err != nil {
				continue
			}
			inode, isSocket := strings.CutPrefix(link, "socket:[")
			inode = strings.TrimSuffix(inode, "]")
			if isSocket && wanted[inode] && owners[inode] == 0 {
				owners[inode] = pid
			}
		}
	}
	return owners
}

// commandOf returns the command line of a process, or as much as says what it is.
func commandOf(pid int) string {
	const most = 200
	line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		return ""
	}
	line = line[:min(len(line), most)]
	return strings.TrimSpace(strings.ToValidUTF8(strings.ReplaceAll(string(line), "\x00", " "), "?"))
}
