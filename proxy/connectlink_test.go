package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

// failingCredentials has no authorization for any connection.
type failingCredentials struct{ err error }

func (r failingCredentials) Authorize(context.Context, string) (*refresh.Authorization, error) {
	return nil, r.err
}

func (r failingCredentials) Reauthorize(context.Context, *refresh.Authorization) (*refresh.Authorization, error) {
	return nil, r.err
}

func (failingCredentials) ReplayRejected(*refresh.Authorization) {}

func (failingCredentials) Uninstalled(context.Context, *refresh.Authorization) {}

// A connect URL is shown if only a person can fix the connection, and failing to
// create one does not fail the response.
func TestConnectURL(t *testing.T) {
	link := func(_ context.Context, id string, version int64) (string, error) {
		return fmt.Sprintf("https://connect.example.com/connect/%s-%d", id, version), nil
	}
	broken := func(context.Context, string, int64) (string, error) {
		return "", errors.New("the store is unavailable")
	}
	for _, test := range []struct {
		name string
		err  *refresh.Error
		link func(context.Context, string, int64) (string, error)
		want string
	}{
		{"pending", &refresh.Error{Code: refresh.ConnectionPending, ConnectionID: "id"}, link, "https://connect.example.com/connect/id-0"},
		{"reauthorization", &refresh.Error{Code: refresh.ReauthorizationRequired, ConnectionID: "id", Version: 7}, link, "https://connect.example.com/connect/id-7"},
		{"links are off", &refresh.Error{Code: refresh.ReauthorizationRequired, ConnectionID: "id"}, nil, ""},
		{"no link", &refresh.Error{Code: refresh.ReauthorizationRequired, ConnectionID: "id"}, broken, ""},
		{"disabled", &refresh.Error{Code: refresh.ConnectionDisabled, ConnectionID: "id"}, link, ""},
		{"temporary", &refresh.Error{Code: refresh.ServerUnavailable}, link, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.err.Connection = "acme"
			p, err := New(Config{
				ConnectionHeaders: []string{"Pleo-Connection", "Connection-Id"},
				Upstream:          newUpstream(t, "https://pleo.example.com"), Credentials: failingCredentials{test.err}, ConnectLink: test.link,
			})
			if err != nil {
				t.Fatal(err)
			}
			r, w := httptest.NewRequest("GET", "/v1/companies", nil), httptest.NewRecorder()
			r.Host = "localhost:8484"
			r.Header.Set("Pleo-Connection", "acme")
			p.ServeHTTP(w, r)
			var doc struct {
				Code       string `json:"code"`
				ConnectURL string `json:"connect_url"`
			}
			if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || doc.Code != string(test.err.Code) || doc.ConnectURL != test.want {
				t.Errorf("response = %+v, %v, want code %s and connect_url %q", doc, err, test.err.Code, test.want)
			}
		})
	}
}
