package simulator

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// employee is a record of /v2/employees.
type employee struct {
	ID        string `json:"id"`
	CompanyID string `json:"companyId"`
	Code      string `json:"code"`
	Email     string `json:"email"`
	FirstName string `json:"firstName"`
	LastName  string `json:"lastName"`
	JobTitle  string `json:"jobTitle"`
}

// employeesOf makes up the employees of a company, the same in every run.
func employeesOf(c Company) []employee {
	first := []string{"Ada", "Bo", "Chen", "Dara", "Émile", "Freja", "Gül", "Håkon", "Inés", "Jens"}
	last := []string{"Lund", "Møller", "Nowak", "Okafor", "Petit", "Quist", "Rossi", "Sørensen"}
	titles := []string{"Bookkeeper", "Engineer", "Designer", "Driver"}
	all := make([]employee, c.Employees)
	for i := range all {
		all[i] = employee{
			ID: deriveUUID("employee", c.ID, i), CompanyID: c.ID, Code: fmt.Sprintf("E%04d", i+1),
			Email:     fmt.Sprintf("employee%d@%s.example", i+1, c.ID[:min(8, len(c.ID))]),
			FirstName: first[i%len(first)], LastName: last[i%len(last)], JobTitle: titles[i%len(titles)],
		}
	}
	return all
}

// employeesSeenBy lists the employees that a credential may see.
func (s *Simulator) employeesSeenBy(p caller) []employee {
	var all []employee
	for _, c := range s.directory.companiesOf(p.subject) {
		all = append(all, employeesOf(c)...)
	}
	return all
}

func (s *Simulator) listEmployees(c call) response {
	unwanted := func(e employee) bool {
		return filteredOut(c, "companyId", e.CompanyID) || filteredOut(c, "email", e.Email) || filteredOut(c, "code", e.Code)
	}
	return page(slices.DeleteFunc(s.employeesSeenBy(c.caller), unwanted), c.query)
}

// filteredOut reports whether the query asks for another value than this one.
func filteredOut(c call, parameter, value string) bool {
	return c.query.Has(parameter) && c.query.Get(parameter) != value
}

func (s *Simulator) getEmployee(c call) response {
	for _, e := range s.employeesSeenBy(c.caller) {
		if e.ID == c.r.PathValue("id") {
			return jsonResponse(http.StatusOK, data{e})
		}
	}
	return exception(http.StatusNotFound, "EMPLOYEE_NOT_FOUND", "employee not found")
}

// companyRecord is a record of /v1/companies.
type companyRecord struct {
	ID                 string            `json:"id"`
	Name               string            `json:"name"`
	OrganizationID     string            `json:"organizationId"`
	RegistrationNumber string            `json:"registrationNumber"`
	Address            map[string]string `json:"address"`
}

func recordOf(c Company) companyRecord {
	return companyRecord{
		ID: c.ID, Name: c.Name, OrganizationID: c.OrganisationID,
		RegistrationNumber: strings.ToUpper(deriveUUID("registration", c.ID)[:8]),
		Address:            map[string]string{"addressLine1": "Ravnsborg Tværgade 5", "locality": "København", "country": "DK"},
	}
}

func (s *Simulator) listCompanies(c call) response {
	covered := s.directory.companiesOf(c.caller.subject)
	records := make([]companyRecord, 0, len(covered))
	for _, company := range covered {
		records = append(records, recordOf(company))
	}
	return page(records, c.query)
}

func (s *Simulator) getCompany(c call) response {
	company, err := s.directory.company(c.r.PathValue("id"))
	if err != nil || company.ID != c.r.PathValue("id") {
		return exception(http.StatusNotFound, "COMPANY_NOT_FOUND", "company not found")
	}
	if !c.caller.subject.covers(company) {
		s.counts.wrongCompany(c.caller.id())
		return s.forbidden("the credential does not belong to this company")
	}
	return jsonResponse(http.StatusOK, data{recordOf(company)})
}
