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

// employeesOf generates the employees of a company, the same in every run.
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

// company returns the company of the caller.
func (a *apiServer) company(c call) Company {
	company, _ := a.sim.directory.company(c.caller.company) // companies are never removed
	return company
}

func (a *apiServer) listEmployees(c call) response {
	filteredOut := func(e employee) bool {
		return differs(c, "email", e.Email) || differs(c, "code", e.Code)
	}
	return page(slices.DeleteFunc(employeesOf(a.company(c)), filteredOut), c.query)
}

// differs reports whether the query filters by the parameter and this value does
// not match.
func differs(c call, parameter, value string) bool {
	return c.query.Has(parameter) && c.query.Get(parameter) != value
}

func (a *apiServer) getEmployee(c call) response {
	for _, e := range employeesOf(a.company(c)) {
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
		ID: c.ID, Name: c.Name, OrganizationID: deriveUUID("organisation", c.ID),
		RegistrationNumber: strings.ToUpper(deriveUUID("registration", c.ID)[:8]),
		Address:            map[string]string{"addressLine1": "Ravnsborg Tværgade 5", "locality": "København", "country": "DK"},
	}
}

func (a *apiServer) listCompanies(c call) response {
	return page([]companyRecord{recordOf(a.company(c))}, c.query)
}

func (a *apiServer) getCompany(c call) response {
	company, err := a.sim.directory.company(c.r.PathValue("id"))
	if err != nil || company.ID != c.r.PathValue("id") {
		return exception(http.StatusNotFound, "COMPANY_NOT_FOUND", "company not found")
	}
	if c.caller.company != company.ID {
		a.sim.counts.wrongCompany(c.caller.id())
		return forbidden("the credential does not belong to this company")
	}
	return jsonResponse(http.StatusOK, data{recordOf(company)})
}
