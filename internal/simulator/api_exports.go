package simulator

import (
	"fmt"
	"net/http"
	"slices"
	"time"
)

// exportJobLifetime is how long a job may go without an action before it expires.
const exportJobLifetime = time.Hour

// exportJob is a record of /v3/export-jobs.
type exportJob struct {
	ID                string     `json:"id"`
	CompanyID         string     `json:"companyId"`
	Status            string     `json:"status"`
	NumberOfItems     int        `json:"numberOfItems"`
	ExpiresIn         int        `json:"expiresIn"` // seconds after the last action
	IsInteractive     bool       `json:"isInteractive"`
	VendorBased       bool       `json:"vendorBasedBookkeeping"`
	CreatedAt         time.Time  `json:"createdAt"`
	StartedAt         *time.Time `json:"startedAt"`
	CompletedAt       *time.Time `json:"completedAt"`
	ExpiredAt         *time.Time `json:"expiredAt"`
	LastUpdatedAt     time.Time  `json:"lastUpdatedAt"`
	FailureReason     string     `json:"failureReason,omitempty"`
	FailureReasonType string     `json:"failureReasonType,omitempty"`

	items []exportJobItem
}

// exportJobItem is a record of /v3/export-jobs/{id}/items.
type exportJobItem struct {
	AccountingEntryID string     `json:"accountingEntryId"`
	ExportJobID       string     `json:"exportJobId"`
	Status            string     `json:"status"`
	ExternalID        string     `json:"externalId,omitempty"`
	ExternalURL       string     `json:"externalUrl,omitempty"`
	ExportedAt        *time.Time `json:"exportedAt"`
	FailureReason     string     `json:"failureReason,omitempty"`
	FailureReasonType string     `json:"failureReasonType,omitempty"`
}

func (j *exportJob) open() bool { return j.Status == "pending" || j.Status == "in_progress" }

// withJobs runs f on the export jobs that a call may see, under the lock. Every
// company has one pending job of five items from the start.
func (s *Simulator) withJobs(c call, f func(jobs []*exportJob) response) response {
	covered := s.directory.companiesOf(c.caller.subject)
	s.records.mu.Lock()
	defer s.records.mu.Unlock()
	var seen []*exportJob
	for _, company := range covered {
		if !s.records.seeded[company.ID] {
			s.records.seeded[company.ID] = true
			s.addJob(company.ID, entryIDs(company.ID, 5))
		}
	}
	for _, j := range s.records.jobs {
		if c.caller.subject.company == j.CompanyID || slices.ContainsFunc(covered, func(k Company) bool { return k.ID == j.CompanyID }) {
			s.expireJob(j)
			seen = append(seen, j)
		}
	}
	return f(seen)
}

func entryIDs(companyID string, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = deriveUUID("accounting entry", companyID, i)
	}
	return ids
}

// addJob adds a pending job; the caller holds the lock.
func (s *Simulator) addJob(companyID string, entries []string) *exportJob {
	now := s.now().UTC()
	j := &exportJob{
		ID:        deriveUUID("export job", companyID, len(s.records.jobs)),
		CompanyID: companyID, Status: "pending", NumberOfItems: len(entries),
		ExpiresIn: int(exportJobLifetime / time.Second), IsInteractive: true, CreatedAt: now, LastUpdatedAt: now,
	}
	for _, id := range entries {
		j.items = append(j.items, exportJobItem{AccountingEntryID: id, ExportJobID: j.ID, Status: "pending"})
	}
	s.records.jobs = append(s.records.jobs, j)
	return j
}

// expireJob ends a started job that nobody has touched for an hour.
func (s *Simulator) expireJob(j *exportJob) {
	at := j.LastUpdatedAt.Add(exportJobLifetime)
	if j.Status == "in_progress" && !s.now().Before(at) {
		j.finish("failed", at)
		j.ExpiredAt, j.FailureReasonType = &at, "job_expired"
	}
}

// finish ends a job; what was not exported is abandoned.
func (j *exportJob) finish(status string, at time.Time) {
	j.Status, j.CompletedAt, j.LastUpdatedAt = status, &at, at
	for i := range j.items {
		if item := &j.items[i]; item.Status == "pending" || item.Status == "in_progress" {
			item.Status = "abandoned"
		}
	}
}

func (s *Simulator) listExportJobs(c call) response {
	return s.withJobs(c, func(jobs []*exportJob) response {
		unwanted := func(j *exportJob) bool {
			return filteredOut(c, "company_id", j.CompanyID) ||
				c.query.Has("statuses") && !slices.Contains(c.query["statuses"], j.Status)
		}
		return page(slices.DeleteFunc(jobs, unwanted), c.query)
	})
}

// withJob runs f on the job with the id, if the call may see it.
func (s *Simulator) withJob(c call, id string, f func(*exportJob) response) response {
	return s.withJobs(c, func(jobs []*exportJob) response {
		for _, j := range jobs {
			if j.ID == id {
				return f(j)
			}
		}
		return exception(http.StatusNotFound, "EXPORT_NOT_FOUND", "export job not found")
	})
}

func (s *Simulator) getExportJob(c call) response {
	return s.withJob(c, c.r.PathValue("id"), func(j *exportJob) response {
		return jsonResponse(http.StatusOK, data{j})
	})
}

func (s *Simulator) createExportJob(c call) response {
	var body struct {
		CompanyID string   `json:"companyId"`
		Entries   []string `json:"accountingEntryIds"`
	}
	if err := readJSON(c.r.Body, false, &body); err != nil {
		return exception(http.StatusBadRequest, "JSON_MAPPING_EXCEPTION", "the body is not the expected JSON")
	}
	company, err := s.directory.company(body.CompanyID)
	if err != nil || !c.caller.subject.covers(company) {
		s.counts.wrongCompany(c.caller.id())
		return s.forbidden("the credential does not belong to this company")
	}
	return s.withJobs(c, func(jobs []*exportJob) response {
		busy := func(j *exportJob) bool { return j.CompanyID == company.ID && j.open() }
		if slices.ContainsFunc(jobs, busy) {
			return exception(http.StatusConflict, "EXPORT_ALREADY_IN_PROGRESS", "an export job is in progress for this company")
		}
		return jsonResponse(http.StatusCreated, data{s.addJob(company.ID, body.Entries)})
	})
}

func (s *Simulator) createExportJobEvent(c call) response {
	var body struct {
		JobID             string `json:"jobId"`
		Event             string `json:"event"`
		FailureReason     string `json:"failureReason"`
		FailureReasonType string `json:"failureReasonType"`
	}
	if err := readJSON(c.r.Body, false, &body); err != nil {
		return exception(http.StatusBadRequest, "JSON_MAPPING_EXCEPTION", "the body is not the expected JSON")
	}
	return s.withJob(c, body.JobID, func(j *exportJob) response {
		if !j.advance(body.Event, s.now().UTC()) {
			return exception(http.StatusUnprocessableEntity, "INVALID_EXPORT_JOB_STATUS_CHANGE",
				fmt.Sprintf("a job that is %s cannot become %s", j.Status, body.Event))
		}
		j.FailureReason, j.FailureReasonType = body.FailureReason, body.FailureReasonType
		return response{status: http.StatusAccepted}
	})
}

// advance moves a job by an event: pending → in_progress → one of the ends. A
// job may fail before it has started.
func (j *exportJob) advance(event string, now time.Time) bool {
	switch {
	case event == "started" && j.Status == "pending":
		j.Status, j.StartedAt, j.LastUpdatedAt = "in_progress", &now, now
		return true
	case event == "failed" && j.open(),
		(event == "completed" || event == "completed_with_errors") && j.Status == "in_progress":
		j.finish(event, now)
		return true
	}
	return false
}

func (s *Simulator) listExportJobItems(c call) response {
	return s.withJob(c, c.r.PathValue("id"), func(j *exportJob) response {
		unwanted := func(i exportJobItem) bool { return filteredOut(c, "status", i.Status) }
		return page(slices.DeleteFunc(slices.Clone(j.items), unwanted), c.query)
	})
}

// itemError tells why one item was not updated.
type itemError struct {
	AccountingEntryID string `json:"accountingEntryId"`
	Type              string `json:"type"`
	Message           string `json:"message"`
}

func (s *Simulator) updateExportJobItems(c call) response {
	var updates []exportJobItem
	if err := readJSON(c.r.Body, false, &updates); err != nil {
		return exception(http.StatusBadRequest, "JSON_MAPPING_EXCEPTION", "the body is not the expected JSON")
	}
	if len(updates) > 100 {
		return exception(http.StatusRequestEntityTooLarge, "EXPORT_JOB_ITEMS_UPDATE_LIMIT", "at most 100 items can be updated at once")
	}
	return s.withJob(c, c.r.PathValue("id"), func(j *exportJob) response {
		if !j.open() {
			return exception(http.StatusUnprocessableEntity, "EXPORT_JOB_STATUS_UNPROCESSABLE", "the export job has finished")
		}
		done, errs := j.update(updates)
		j.LastUpdatedAt = s.now().UTC()
		return jsonResponse(http.StatusOK, struct {
			Data   []exportJobItem `json:"data"`
			Errors []itemError     `json:"errors"`
		}{done, errs})
	})
}

func (j *exportJob) update(updates []exportJobItem) (done []exportJobItem, errs []itemError) {
	done, errs = []exportJobItem{}, []itemError{}
	for _, u := range updates {
		i := slices.IndexFunc(j.items, func(i exportJobItem) bool { return i.AccountingEntryID == u.AccountingEntryID })
		if i < 0 {
			errs = append(errs, itemError{u.AccountingEntryID, "ACCOUNTING_ENTRY_DOES_NOT_EXIST", "the job has no such item"})
			continue
		}
		u.ExportJobID = j.ID
		j.items[i] = u
		done = append(done, u)
	}
	return done, errs
}

// money is an amount in minor units.
type money struct {
	Value    int64  `json:"value"`
	Currency string `json:"currency"`
}

// exportItem is a record of /v3/export-items, in short.
type exportItem struct {
	AccountingEntryID string    `json:"accountingEntryId"`
	CompanyID         string    `json:"companyId"`
	Date              time.Time `json:"date"`
	Type              string    `json:"type"`
	Amount            money     `json:"amount"`
	Lines             []any     `json:"accountingEntryLines"`
	Links             struct{}  `json:"_links"`
}

func (s *Simulator) listExportItems(c call) response {
	return s.withJob(c, c.query.Get("job_id"), func(j *exportJob) response {
		if !j.open() {
			return exception(http.StatusUnprocessableEntity, "EXPORT_JOB_STATUS_UNPROCESSABLE", "the export job has finished")
		}
		items := make([]exportItem, 0, len(j.items))
		for n, i := range j.items {
			items = append(items, exportItem{
				AccountingEntryID: i.AccountingEntryID, CompanyID: j.CompanyID, Date: j.CreatedAt,
				Type: "card_purchase", Amount: money{int64(1000 + 250*n), "DKK"}, Lines: []any{},
			})
		}
		return page(items, c.query)
	})
}
