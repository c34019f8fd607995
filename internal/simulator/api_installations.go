package simulator

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// installation is the document of /v1/installations/me. It is not wrapped.
type installation struct {
	ID            string          `json:"id"`
	ApplicationID string          `json:"applicationId"`
	Resource      string          `json:"resource"`
	Status        string          `json:"status"`
	ErrorCode     string          `json:"errorCode,omitempty"`
	Metadata      json.RawMessage `json:"metadata"`
	CreatedAt     time.Time       `json:"createdAt"`
	UpdatedAt     time.Time       `json:"updatedAt"`
}

// installationOwner is a client or key, and the subject it is installed for.
type installationOwner struct {
	clientID string
	subject  subject
}

// records is the installations and export jobs. All methods of the simulator
// that touch them hold mu.
type records struct {
	mu            sync.Mutex // guards all below
	installations map[installationOwner]*installation
	jobs          []*exportJob
	seeded        map[string]bool // companies whose first job has been made
}

func newRecords() *records {
	return &records{installations: map[installationOwner]*installation{}, seeded: map[string]bool{}}
}

// installed makes the installation that consent brings along.
func (s *Simulator) installed(spec grantSpec) {
	s.records.mu.Lock()
	defer s.records.mu.Unlock()
	owner := installationOwner{spec.clientID, spec.subject}
	if s.records.installations[owner] != nil {
		return
	}
	status := "ACTIVATED"
	if s.settings.Load().API.NeedsActivation {
		status = "AUTHORIZED"
	}
	s.records.installations[owner] = s.newInstallation(owner, status)
}

func (s *Simulator) newInstallation(owner installationOwner, status string) *installation {
	now := s.now().UTC()
	return &installation{
		ID:            deriveUUID("installation", owner.clientID, owner.subject.urn()),
		ApplicationID: deriveUUID("application", owner.clientID),
		Resource:      owner.subject.urn(), Status: status, Metadata: json.RawMessage("{}"),
		CreatedAt: now, UpdatedAt: now,
	}
}

// changeInstallation lets change have the installation of a call, nil if there
// is none, under the lock.
func (s *Simulator) changeInstallation(c call, change func(*installation) response) response {
	s.records.mu.Lock()
	defer s.records.mu.Unlock()
	return change(s.records.installations[c.caller.owner()])
}

func (s *Simulator) noInstallation() response {
	status := s.settings.Load().API.NoInstallationStatus
	if status == 0 {
		status = http.StatusNotFound
	}
	return exception(status, "INSTALLATION_NOT_FOUND", "there is no installation")
}

func (s *Simulator) getInstallation(c call) response {
	return s.changeInstallation(c, func(i *installation) response {
		if i == nil {
			return s.noInstallation()
		}
		return jsonResponse(http.StatusOK, i)
	})
}

// installationChange is the body of POST and PUT.
type installationChange struct {
	Status    string          `json:"status"`
	ErrorCode string          `json:"errorCode"`
	Metadata  json.RawMessage `json:"metadata"`
}

func (i *installation) apply(change installationChange, now time.Time) {
	if change.Status != "" {
		i.Status = change.Status
	}
	if change.Metadata != nil {
		i.Metadata = change.Metadata
	}
	i.ErrorCode, i.UpdatedAt = change.ErrorCode, now.UTC()
}

// readChange reads the body of POST or PUT; an empty one changes nothing.
func readChange(c call) (installationChange, *response) {
	var change installationChange
	if err := readJSON(c.r.Body, false, &change); err != nil && !errors.Is(err, io.EOF) {
		re := exception(http.StatusBadRequest, "JSON_MAPPING_EXCEPTION", "the body is not the expected JSON")
		return change, &re
	}
	statuses := []string{"", "AUTHORIZED", "PENDING_INTEGRATION", "ACTIVATED", "INACTIVE", "ERROR"}
	if !slices.Contains(statuses, change.Status) {
		re := exception(http.StatusBadRequest, "VALIDATION_FAILED", "unknown status "+change.Status)
		return change, &re
	}
	return change, nil
}

func (s *Simulator) createInstallation(c call) response {
	change, bad := readChange(c)
	if bad != nil {
		return *bad
	}
	return s.changeInstallation(c, func(i *installation) response {
		if i == nil {
			i = s.newInstallation(c.caller.owner(), "AUTHORIZED")
			s.records.installations[c.caller.owner()] = i
		}
		i.apply(change, s.now())
		return jsonResponse(http.StatusOK, i)
	})
}

func (s *Simulator) updateInstallation(c call) response {
	change, bad := readChange(c)
	if bad != nil {
		return *bad
	}
	return s.changeInstallation(c, func(i *installation) response {
		if i == nil {
			return s.noInstallation()
		}
		i.apply(change, s.now())
		return jsonResponse(http.StatusOK, i)
	})
}

func (s *Simulator) activateInstallation(c call) response {
	return s.changeInstallation(c, func(i *installation) response {
		if i == nil {
			return s.noInstallation()
		}
		i.apply(installationChange{Status: "ACTIVATED"}, s.now())
		return jsonResponse(http.StatusOK, i)
	})
}

// deleteInstallation uninstalls, which revokes all tokens that the client has
// for the subject.
func (s *Simulator) deleteInstallation(c call) response {
	re := s.changeInstallation(c, func(i *installation) response {
		if i == nil {
			return exception(http.StatusNotFound, "INSTALLATION_NOT_FOUND", "there is no installation")
		}
		delete(s.records.installations, c.caller.owner())
		return response{status: http.StatusNoContent}
	})
	if re.status == http.StatusNoContent {
		s.uninstall(c.caller)
	}
	return re
}

func (s *Simulator) uninstall(who caller) {
	if who.key == "" {
		s.grants.revokeWhere("uninstalled", func(g *grant) bool {
			return g.clientID == who.clientID && g.subject == who.subject
		})
		return
	}
	if s.settings.Load().API.UninstallRevokesKey {
		_ = s.directory.revokeKey(who.key) // it exists: it has just been used
	}
}
