package client

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	"github.com/covehq/cove"
)

// FromNow, as the position to follow events after, replays nothing.
const FromNow = ^uint64(0)

// EventFilter chooses events. The zero value is all that are kept and all that come.
type EventFilter struct {
	// After is the number of the event to begin after; FromNow replays none.
	After uint64
	// Sandbox is the id or name of the sandbox that they are about, Types what they are;
	// empty for any.
	Sandbox string
	Types   []cove.EventType
	// NoFollow ends with those that are kept.
	NoFollow bool
}

// Events yields what happens to sandboxes, beginning after the event with that number;
// recent events are replayed. It ends when ctx does or the daemon stops, with an error
// as the last thing that it yields.
func (c *Client) Events(ctx context.Context, after uint64) iter.Seq2[cove.Event, error] {
	return c.SelectEvents(ctx, EventFilter{After: after})
}

// SelectEvents is Events for those that a filter chooses.
func (c *Client) SelectEvents(ctx context.Context, filter EventFilter) iter.Seq2[cove.Event, error] {
	query := url.Values{}
	if filter.After != FromNow {
		query.Set("after", strconv.FormatUint(filter.After, 10))
	}
	if filter.Sandbox != "" {
		query.Set("sandbox", filter.Sandbox)
	}
	for _, kind := range filter.Types {
		query.Add("type", string(kind))
	}
	if filter.NoFollow {
		query.Set("no_follow", "true")
	}
	r := request{op: "events", method: http.MethodGet, path: "/v1/events", query: query}
	return follow[cove.Event](ctx, c, r, filter.NoFollow)
}

// Stats returns what the sandbox uses now.
func (s *Sandbox) Stats(ctx context.Context) (cove.Stats, error) {
	var stats cove.Stats
	err := s.client.call(ctx, s.request("stats", http.MethodGet, "/stats"), &stats)
	return stats, err
}

// WatchStats yields what the sandbox uses, again after every interval, until ctx or the
// sandbox ends, with an error as the last thing that it yields. An interval of 0 is one
// second.
func (s *Sandbox) WatchStats(ctx context.Context, interval cove.Duration) iter.Seq2[cove.Stats, error] {
	r := s.request("stats", http.MethodGet, "/stats")
	if interval != 0 {
		r.query = url.Values{"interval": {interval.String()}}
	}
	return follow[cove.Stats](ctx, s.client, r, false)
}

// follow yields the events of a stream. Only one that is finite may end without an error.
func follow[T any](ctx context.Context, c *Client, r request, finite bool) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		stream, err := c.subscribe(ctx, r)
		if err != nil {
			yield(none, err)
			return
		}
		defer stream.end()
		for {
			var next T
			err := stream.next(&next)
			if errors.Is(err, io.EOF) && finite {
				return
			}
			if errors.Is(err, io.EOF) {
				err = broken(ctx, r.op, err)
			}
			if !yield(next, err) || err != nil {
				return
			}
		}
	}
}
