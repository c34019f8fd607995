package manage

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// ConnectionLine is a connection as a JSON line of exports and imports, by the API and
// on the command line. A connection without a credential waits for its customer.
type ConnectionLine struct {
	Name           string     `json:"name"`
	Kind           string     `json:"kind"`
	RefreshToken   string     `json:"refresh_token,omitempty"`
	AccessToken    string     `json:"access_token,omitempty"`
	ExpiresAt      *time.Time `json:"expires_at,omitempty"` // of the access token or the key
	APIKey         string     `json:"api_key,omitempty"`
	CompanyID      string     `json:"company_id,omitempty"`
	ExternalTenant string     `json:"external_tenant,omitempty"`
}

// NewConnectionLine returns c without its credential.
func NewConnectionLine(c credstore.Connection) ConnectionLine {
	return ConnectionLine{Name: c.Name, Kind: string(c.Kind), CompanyID: c.CompanyID, ExternalTenant: c.ExternalTenant}
}

// Write writes l as a line.
func (l ConnectionLine) Write(out io.Writer) error {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	return enc.Encode(l) //nolint:gosec // G117: exporting a credential takes a credential in the line
}

// ImportOptions are the options of [Operator.Import].
type ImportOptions struct {
	// Offline imports without asking the API which companies the credentials belong
	// to.
	Offline bool
	// AllowSharedCompany lets a company have another connection of the same kind.
	AllowSharedCompany bool
	// OnResult is called with the result of each line. Nil: it is not called.
	OnResult func(ImportResult)
}

// ImportReport has the results of the lines of an import. No field is secret.
type ImportReport struct {
	Imported int            `json:"imported"`
	Pending  int            `json:"pending"` // imported connections that wait for their customers
	Failed   int            `json:"failed"`
	Tokens   int            `json:"-"` // imported connections with a refresh token
	Lines    []ImportResult `json:"lines"`
}

// ImportResult is the result of one line.
type ImportResult struct {
	Line    int     `json:"line"` // from 1
	Name    *string `json:"name"` // null if it could not be parsed
	Result  string  `json:"result"`
	Code    *string `json:"code"` // why it failed, for programs
	Warning *string `json:"warning"`
	Error   *string `json:"error"` // why it failed, for people
}

// The results of a line.
const (
	resultImported = "imported"
	resultFailed   = "failed"
)

// maxLineSize is the size of a line in bytes, far more than any line needs.
const maxLineSize = 1 << 20

// Import adds the connections of JSON lines, one after another: a line that fails
// does not keep the others from being imported. It returns an error if it stopped
// early, because in cannot be read, the store is unavailable or ctx has ended; the
// report then has the results so far.
func (o *Operator) Import(ctx context.Context, in io.Reader, opts ImportOptions) (ImportReport, error) {
	i := importer{adder: o.adder(opts.Offline), opts: opts, report: ImportReport{Lines: []ImportResult{}}}
	lines := bufio.NewReaderSize(in, maxLineSize)
	for number := 1; ; number++ {
		line, err := readLine(lines)
		line = bytes.TrimSpace(bytes.TrimPrefix(line, []byte("\ufeff")))
		if len(line) > 0 {
			if err := i.importLine(ctx, number, line); err != nil {
				return i.report, fmt.Errorf("importing line %d: %w", number, err)
			}
		}
		if errors.Is(err, io.EOF) {
			return i.report, nil
		}
		if err != nil {
			return i.report, fmt.Errorf("reading line %d: %w", number, err)
		}
	}
}

// importer is one run of [Operator.Import].
type importer struct {
	adder  *adder
	opts   ImportOptions
	report ImportReport
}

// readLine returns the next line, without its end. It cuts a line that is longer than
// maxLineSize, so that the line fails and the next one is read.
func readLine(in *bufio.Reader) ([]byte, error) {
	line, cut, err := in.ReadLine()
	line = bytes.Clone(line)
	for cut && err == nil {
		_, cut, err = in.ReadLine()
	}
	return line, err
}

// importLine imports a line and adds its result to the report. It returns an error
// that keeps all other lines from being imported too.
func (i *importer) importLine(ctx context.Context, number int, line []byte) error {
	result := ImportResult{Line: number, Result: resultImported}
	n, err := parseLine(line)
	n.SharedCompany = i.opts.AllowSharedCompany
	if credstore.ValidName(n.Name) {
		result.Name = &n.Name
	}
	warning := ""
	if err == nil {
		_, warning, err = i.adder.add(ctx, n)
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, credstore.ErrUnavailable):
		return err
	case err != nil:
		i.report.Failed++
		result.Result, result.Code, result.Error = resultFailed, orNull(lineErrorCode(err)), orNull(err.Error())
	default:
		i.count(n)
	}
	result.Warning = orNull(warning)
	i.report.Lines = append(i.report.Lines, result)
	if i.opts.OnResult != nil {
		i.opts.OnResult(result)
	}
	return nil
}

// count counts a connection that was imported.
func (i *importer) count(n credstore.NewConnection) {
	i.report.Imported++
	switch {
	case n.Credential == nil:
		i.report.Pending++
	case n.Kind == credstore.OAuth:
		i.report.Tokens++
	}
}

// lineErrorCode returns the code that the API has for the error of a line.
func lineErrorCode(err error) string {
	if p := Explain(err); p != nil {
		return p.Code
	}
	return CodeBadRequest
}

// credentialFields are the fields of a line that a credential is made of.
type credentialFields struct {
	refreshToken, accessToken, apiKey, expiresAt string
	empty                                        string // the last field for a token or key, if the line has one
}

// parseLine parses a line. Beside an error it returns the name, if that could be
// parsed. Errors contain no part of the line, most of which is secret.
func parseLine(line []byte) (n credstore.NewConnection, err error) {
	var c credentialFields
	names, err := Fields{
		"name": &n.Name, "kind": &n.Kind, "company_id": &n.Company.ID, "external_tenant": &n.ExternalTenant,
		"refresh_token": &c.refreshToken, "access_token": &c.accessToken, "api_key": &c.apiKey, "expires_at": &c.expiresAt,
	}.Decode(line)
	var unknown *UnknownFieldError
	if errors.As(err, &unknown) {
		err = invalid("unknown field; %s", SupportedNames(unknown.Known))
	}
	if err != nil {
		return credstore.NewConnection{Name: n.Name}, err
	}
	n.Company.ID = strings.ToLower(n.Company.ID)
	if _, err := credstore.ParseKind(string(n.Kind)); err != nil {
		return n, invalid("the field kind must be oauth, integrated_key or standalone_key")
	}
	for _, name := range names {
		if name == "refresh_token" || name == "access_token" || name == "api_key" {
			c.empty = name
		}
	}
	n.Credential, err = c.credential()
	return n, err
}

// credential returns the credential of a line, or nil for a connection that waits
// for its customer. The line of such a connection has no field for a token or key:
// one that is empty or null has rather been lost on its way here.
func (f credentialFields) credential() (*credstore.NewCredential, error) {
	c := credstore.NewCredential{
		AccessToken:  credstore.NewSecret(f.accessToken),
		RefreshToken: credstore.NewSecret(f.refreshToken),
		APIKey:       credstore.NewSecret(f.apiKey),
	}
	if f.expiresAt != "" {
		expires, err := time.Parse(time.RFC3339, f.expiresAt)
		if err != nil {
			return nil, invalid("the field expires_at must be a time such as 2030-01-02T03:04:05Z")
		}
		c.ExpiresAt = expires.UTC()
	}
	switch {
	case !c.AccessToken.IsZero() || !c.RefreshToken.IsZero() || !c.APIKey.IsZero():
		return &c, nil
	case f.empty != "":
		return nil, invalid("the field %s is empty; leave it out for a connection that waits for its customer", f.empty)
	case !c.ExpiresAt.IsZero():
		return nil, invalid("the field expires_at needs a token or key")
	}
	return nil, nil //nolint:nilnil // a connection without a credential is not an error
}
