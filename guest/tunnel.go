package guest

import (
	"encoding/binary"
	"io"
	"net/http"
	"sync"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/pair"
	"github.com/covehq/cove/guest/wire"
)

// serveTunnel serves a request as a connection of its own: where the agent has one stream
// to the outside, that stream carries the others.
func (a *Agent) serveTunnel(w http.ResponseWriter, r *http.Request) error {
	if r.ProtoMajor != 2 {
		return cove.Errorf(cove.Invalid, "tunnel", "", "the request is not of HTTP/2", "open "+wire.TunnelPath+" over HTTP/2, or dial the agent itself")
	}
	ours, theirs, err := pair.New()
	if err != nil {
		return err
	}
	defer ours.Close()
	a.ServeConn(theirs)
	controller := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	if err := controller.Flush(); err != nil {
		return nil
	}
	var in sync.WaitGroup
	ended := make(chan struct{})
	in.Go(func() {
		if _, err := io.Copy(ours, r.Body); err == nil {
			_ = ours.CloseWrite()
			select {
			case <-ended:
				return
			case <-r.Context().Done(): // the caller wants no answer any more
			}
		}
		_ = ours.Close()
	})
	if sendPieces(w, controller, ours) != nil || pair.HungUp(ours) {
		_ = r.Body.Close() // ends the other copy
	}
	close(ended)
	in.Wait()
	return nil
}

// sendPieces copies what comes from a connection into a reply, each piece with its length
// before it, to its end.
func sendPieces(w io.Writer, controller *http.ResponseController, from io.Reader) error {
	const head = 4
	piece := make([]byte, head+32<<10)
	for {
		n, err := from.Read(piece[head:])
		if n == 0 && err != nil && err != io.EOF {
			return err
		}
		binary.BigEndian.PutUint32(piece, uint32(n)) // 0 is the end
		if _, failed := w.Write(piece[:head+n]); failed != nil {
			return failed
		}
		if failed := controller.Flush(); failed != nil {
			return failed
		}
		if n == 0 {
			return nil
		}
	}
}
