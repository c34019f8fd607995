package simulator

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// installation is the document of /v1/installations/me.
type installation struct {
	ID            string          `json:"id"`
	ApplicationID string          `json:"applicationId"`
	Resource      string          `json:"resource"`
	Status        string          `json:"status"`
	Metadata      json.RawMessage `json:"metadata"`
	CreatedAt     time.Time       `json:"createdAt"`
	UpdatedAt     time.Time       `json:"updatedAt"`
}

// installations holds the installations. It is safe for concurrent use.
type installations struct {
	mu  sync.Mutex                          // guards all
	all map[installationOwner]*installation // the values do not change
}

type installationOwner struct{ clientID, company string }

func newInstallations() *installations {
	return &installations{all: map[installationOwner]*installation{}}
}

// add adds the installation that results from consent, unless it exists.
func (is *installations) add(clientID, company string, now time.Time) {
	is.mu.Lock()
	defer is.mu.Unlock()
	owner := installationOwner{clientID, company}
	if is.all[owner] != nil {
		return
	}
	is.all[owner] = &installation{
		ID:            deriveUUID("installation", clientID, company),
		ApplicationID: deriveUUID("application", clientID),
		Resource:      subjectURN(company), Status: "ACTIVATED", Metadata: json.RawMessage("{}"),
		CreatedAt: now.UTC(), UpdatedAt: now.UTC(),
	}
}

// get returns an installation, or nil if there is none.
func (is *installations) get(clientID, company string) *installation {
	is.mu.Lock()
	defer is.mu.Unlock()
	return is.all[installationOwner{clientID, company}]
}

func (is *installations) remove(clientID, company string) (existed bool) {
	is.mu.Lock()
	defer is.mu.Unlock()
	owner := installationOwner{clientID, company}
	existed = is.all[owner] != nil
	delete(is.all, owner)
	return existed
}

func noInstallation() response {
	return exception(http.StatusNotFound, "INSTALLATION_NOT_FOUND", "there is no installation")
}

func (a *apiServer) getInstallation(c call) response {
	i := a.sim.installations.get(c.caller.clientID, c.caller.company)
	if i == nil {
		return noInstallation()
	}
	return jsonResponse(http.StatusOK, i)
}

// deleteInstallation uninstalls the client, which revokes all its grants for the
// company. Keys have no installation here.
func (a *apiServer) deleteInstallation(c call) response {
	if !a.sim.installations.remove(c.caller.clientID, c.caller.company) {
		return noInstallation()
	}
	a.sim.grants.revoke("uninstalled", func(g *grant) bool {
		return g.clientID == c.caller.clientID && g.company == c.caller.company
	})
	return response{status: http.StatusNoContent}
}
