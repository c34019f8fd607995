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
	"unicode/utf8"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// ConnectionLine is a connection as one of the JSON lines that an export writes and an
// import reads, by the API and on the command line. One without a credential is
// a connection that waits for its customer.
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
	return enc.Encode(l) //nolint:gosec // G117: whoever put a credential in wants it out
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

// ImportReport says what became of the lines of an import. Nothing in it is
// secret.
type ImportReport struct {
	Imported int            `json:"imported"`
	Pending  int            `json:"pending"` // of those imported; they wait for their customers
	Failed   int            `json:"failed"`
	Tokens   int            `json:"-"` // of those imported; they have a refresh token
	Lines    []ImportResult `json:"lines"`
}

// ImportResult says what became of one line.
type ImportResult struct {
	Line    int     `json:"line"` // from 1
	Name    *string `json:"name"` // null when it could not be read
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

// maxLineSize is far more than any line needs, in bytes.
const maxLineSize = 1 << 20

// Import adds the connections of JSON lines, one after another: a line that fails
// does not keep the others from being imported. It returns an error if it could
// not go on to the end, because in cannot be read, the store is unavailable or ctx
// has ended; the report then has the results up to there.
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

// readLine returns the next line, without its end. Of one longer than maxLineSize it
// returns the beginning, which no object ends in, so that the line fails
// and the next one is read.
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

// lineMembers are those of a line as they are written.
type lineMembers struct {
	Name           string `json:"name"`
	Kind           string `json:"kind"`
	RefreshToken   string `json:"refresh_token"`
	AccessToken    string `json:"access_token"`
	ExpiresAt      string `json:"expires_at"`
	APIKey         string `json:"api_key"`
	CompanyID      string `json:"company_id"`
	ExternalTenant string `json:"external_tenant"`

	credentialMember string // a member for a token or key that the line has, be it empty; else ""
}

// parseLine reads a line. What it returns beside an error holds the name, if
// that could be read. Errors leave out what stands in the line, which is mostly
// secret.
func parseLine(line []byte) (credstore.NewConnection, error) {
	var m lineMembers
	if err := m.decode(line); err != nil {
		return credstore.NewConnection{Name: m.Name}, err
	}
	n := credstore.NewConnection{
		Name:           m.Name,
		Kind:           credstore.Kind(m.Kind),
		ExternalTenant: m.ExternalTenant,
		Company:        credstore.Company{ID: strings.ToLower(m.CompanyID)},
	}
	if _, err := credstore.ParseKind(m.Kind); err != nil {
		return n, errors.New("kind must be oauth, integrated_key or standalone_key")
	}
	var err error
	n.Credential, err = m.credential()
	return n, err
}

// credential returns that of the line, nil for a connection that waits for its
// customer. Such a line names no token or key at all: one that is empty or null
// is rather one that got lost on its way here.
func (m lineMembers) credential() (*credstore.NewCredential, error) {
	c := credstore.NewCredential{
		AccessToken:  credstore.NewSecret(m.AccessToken),
		RefreshToken: credstore.NewSecret(m.RefreshToken),
		APIKey:       credstore.NewSecret(m.APIKey),
	}
	if m.ExpiresAt != "" {
		expires, err := time.Parse(time.RFC3339, m.ExpiresAt)
		if err != nil {
			return nil, errors.New("expires_at must be a time such as 2030-01-02T03:04:05Z")
		}
		c.ExpiresAt = expires.UTC()
	}
	switch {
	case !c.AccessToken.IsZero() || !c.RefreshToken.IsZero() || !c.APIKey.IsZero():
		return &c, nil
	case m.credentialMember != "":
		return nil, fmt.Errorf("%s is empty; leave it out for a connection that waits for its customer", m.credentialMember)
	case !c.ExpiresAt.IsZero():
		return nil, errors.New("expires_at is there, and no token or key that it could be of")
	}
	return nil, nil //nolint:nilnil // that is no error
}

var (
	errNotAnObject   = errors.New("the line is not one JSON object")
	errUnknownMember = errors.New("the object has a member that is not known; it takes " +
		"name, kind, refresh_token, access_token, expires_at, api_key, company_id and external_tenant")
)

// decode reads one JSON object with known members, each there once.
func (m *lineMembers) decode(line []byte) error {
	if !utf8.Valid(line) {
		return errors.New("the line is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	err := dec.Decode(m)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) && wrong.Field != "" {
		return fmt.Errorf("%s must be a text", wrong.Field)
	}
	if err != nil && strings.HasPrefix(err.Error(), "json: unknown field") {
		return errUnknownMember
	}
	if err == nil {
		_, err = dec.Token() // there is nothing behind the object
	}
	if !errors.Is(err, io.EOF) {
		return errNotAnObject
	}
	return m.checkMembers(line)
}

// checkMembers sees to what a decoder does not mind: a member that is there twice, of
// which one value would be lost, and one in other letters, which would be missed
// below.
func (m *lineMembers) checkMembers(line []byte) error {
	names, err := memberNames(line)
	if err != nil { // null
		return errNotAnObject
	}
	seen := map[string]bool{}
	for _, name := range names {
		switch name {
		case "refresh_token", "access_token", "api_key":
			m.credentialMember = name
		case "name", "kind", "expires_at", "company_id", "external_tenant":
		default:
			return errUnknownMember
		}
		if seen[name] {
			return fmt.Errorf("%s is given twice", name)
		}
		seen[name] = true
	}
	return nil
}

// memberNames returns the names of an object's members in their order.
func memberNames(object []byte) (names []string, err error) {
	dec := json.NewDecoder(bytes.NewReader(object))
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return nil, errNotAnObject
	}
	for dec.More() {
		token, err := dec.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return nil, errNotAnObject
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, errNotAnObject
		}
		names = append(names, name)
	}
	return names, nil
}
