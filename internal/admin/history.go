package admin

import (
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// History is one page of what happened to a connection, the latest first.
type History struct {
	Events     []Event `json:"events"`
	NextCursor *string `json:"next_cursor"` // null on the last page
}

// Event is one entry of a connection's history, as operators see it. Nothing in
// it is secret.
type Event struct {
	ID      string    `json:"id"`
	Type    string    `json:"type"`
	At      time.Time `json:"at"`
	Actor   string    `json:"actor"`
	Status  string    `json:"status"` // find the connection, after it
	Reason  *string   `json:"reason"`
	Version *int64    `json:"version"`
	Code    *string   `json:"code"`
	Message *string   `json:"message"`
}

// DescribeHistory returns a page of a history as operators see it, with its
// times in UTC.
func DescribeHistory(p credstore.HistoryPage) History {
	h := History{Events: make([]Event, 0, len(p.Events)), NextCursor: orNull(p.Next)}
	for _, e := range p.Events {
		h.Events = append(h.Events, Event{
			ID: e.ID, Type: string(e.Type), At: e.At.UTC(), Actor: e.Actor, Status: string(e.Status),
			Reason: orNull(e.Reason), Version: orNull(e.Version), Code: orNull(e.Code), Message: orNull(e.Message),
		})
	}
	return h
}
