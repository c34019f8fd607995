package main

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

	"github.com/spf13/cobra"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func (p *program) importCommand() *cobra.Command {
	var offline, shared bool
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Adds connections from JSON lines",
		Long: `Adds connections with the credentials that they have elsewhere, from a file of
JSON lines, or from standard input for -. Each line is an object:

  {"name":"acme","kind":"oauth","refresh_token":"…","access_token":"…",
   "expires_at":"2030-01-02T03:04:05Z","company_id":"…","external_tenant":"4711"}
  {"name":"beta","kind":"standalone_key","api_key":"…"}

A line whose name exists or whose company is bound already is refused, the others
are done, and the exit code is 1. Nothing is refreshed. From then on only this
proxy may refresh these tokens: of two owners of one refresh token, one kills it.`,
		Args: args("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.importFile(cmd.Context(), args[0], offline, shared)
		},
	}
	cmd.Flags().BoolVar(&offline, "offline", false, "do not ask the API for the companies")
	cmd.Flags().BoolVar(&shared, "allow-shared-company", false, sharedUsage)
	return cmd
}

func (p *program) importFile(ctx context.Context, path string, offline, shared bool) error {
	in, err := p.openInput(path)
	if err != nil {
		return fmt.Errorf("opening the file to import: %w", err)
	}
	err = p.withIntake(ctx, offline, func(to *intake) error {
		run := &importRun{program: p, intake: to, shared: shared, report: importReport{Lines: []lineReport{}}}
		return run.all(ctx, in)
	})
	return errors.Join(err, in.Close())
}

// importReport is what --json prints.
type importReport struct {
	Imported int          `json:"imported"`
	Refused  int          `json:"refused"`
	Lines    []lineReport `json:"lines"`
}

// lineReport says what became of one line. It holds nothing secret.
type lineReport struct {
	Line    int     `json:"line"` // from 1
	Name    *string `json:"name"` // null when it could not be read
	Result  string  `json:"result"`
	Warning *string `json:"warning"`
	Error   *string `json:"error"`
}

// importRun is one import.
type importRun struct {
	program *program
	intake  *intake
	shared  bool // companies may have other connections of the kind
	report  importReport
	tokens  bool // a refresh token was imported
}

// lineMax is far more than any line needs.
const lineMax = 1 << 20

func (r *importRun) all(ctx context.Context, in io.Reader) error {
	lines := bufio.NewReaderSize(in, lineMax)
	for number := 1; ; number++ {
		line, err := readLine(lines)
		line = bytes.TrimSpace(bytes.TrimPrefix(line, []byte("\ufeff")))
		if len(line) > 0 {
			r.take(ctx, number, line)
		}
		if errors.Is(err, io.EOF) {
			return r.finish()
		}
		if err != nil {
			return errors.Join(fmt.Errorf("reading line %d: %w", number, err), r.finish())
		}
	}
}

// readLine returns the next line, without its end. Of one longer than lineMax it
// returns the beginning, which no object ends in, so that the line is refused
// and the next one is read.
func readLine(in *bufio.Reader) ([]byte, error) {
	line, cut, err := in.ReadLine()
	line = bytes.Clone(line)
	for cut && err == nil {
		_, cut, err = in.ReadLine()
	}
	return line, err
}

// take imports one line and reports what became of it.
func (r *importRun) take(ctx context.Context, number int, line []byte) {
	report := lineReport{Line: number, Result: "imported"}
	n, err := parseLine(line)
	n.SharedCompany = r.shared
	if credstore.ValidName(n.Name) {
		report.Name = &n.Name
	}
	warning := ""
	if err == nil {
		_, warning, err = r.intake.take(ctx, n)
	}
	if err != nil {
		message := err.Error()
		report.Result, report.Error = "refused", &message
		r.report.Refused++
		r.tell(report, "refused: "+message)
	} else {
		r.report.Imported++
		r.tokens = r.tokens || n.Kind == credstore.OAuth
	}
	if warning != "" {
		report.Warning = &warning
		r.tell(report, "warning: "+warning)
	}
	r.report.Lines = append(r.report.Lines, report)
}

func (r *importRun) tell(report lineReport, message string) {
	if report.Name == nil {
		r.program.say("line %d: %s", report.Line, message)
		return
	}
	r.program.say("line %d: %s: %s", report.Line, *report.Name, message)
}

// finish says how it went. Refused lines make the import as a whole fail.
func (r *importRun) finish() error {
	r.program.say("imported %d connections, refused %d", r.report.Imported, r.report.Refused)
	if r.tokens {
		r.program.say("warning: from now on only this proxy may refresh the imported tokens; of two owners of one refresh token, one kills it for both")
	}
	if r.program.asJSON {
		if err := r.program.printJSON(r.report); err != nil {
			return err
		}
	}
	if r.report.Refused > 0 {
		return fmt.Errorf("%d lines were refused", r.report.Refused)
	}
	return nil
}

// importLine is one line as it is written.
type importLine struct {
	Name           string `json:"name"`
	Kind           string `json:"kind"`
	RefreshToken   string `json:"refresh_token"`
	AccessToken    string `json:"access_token"`
	ExpiresAt      string `json:"expires_at"`
	APIKey         string `json:"api_key"`
	CompanyID      string `json:"company_id"`
	ExternalTenant string `json:"external_tenant"`
}

// parseLine reads a line. What it returns beside an error holds the name, if
// that could be read.
func parseLine(line []byte) (credstore.NewConnection, error) {
	var l importLine
	if err := decodeLine(line, &l); err != nil {
		return credstore.NewConnection{Name: l.Name}, err
	}
	n := credstore.NewConnection{
		Name:           l.Name,
		Kind:           credstore.Kind(l.Kind),
		ExternalTenant: l.ExternalTenant,
		Company:        credstore.Company{ID: strings.ToLower(l.CompanyID)},
		Credential: &credstore.FirstCredential{
			AccessToken:  credstore.NewSecret(l.AccessToken),
			RefreshToken: credstore.NewSecret(l.RefreshToken),
			APIKey:       credstore.NewSecret(l.APIKey),
		},
	}
	if _, err := credstore.ParseKind(l.Kind); err != nil {
		return n, errors.New("kind must be oauth, integrated_key or standalone_key")
	}
	if l.ExpiresAt == "" {
		return n, nil
	}
	expires, err := time.Parse(time.RFC3339, l.ExpiresAt)
	if err != nil {
		return n, errors.New("expires_at must be a time such as 2030-01-02T03:04:05Z")
	}
	n.Credential.ExpiresAt = expires.UTC()
	return n, nil
}

// decodeLine reads one JSON object with known members. Its errors leave out
// what stands in the line, which is mostly secret.
func decodeLine(line []byte, l *importLine) error {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	err := dec.Decode(l)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) && wrong.Field != "" {
		return fmt.Errorf("%s must be a text", wrong.Field)
	}
	if err != nil && strings.HasPrefix(err.Error(), "json: unknown field") {
		return errors.New("the object has a member that is not known; it takes name, kind, refresh_token, access_token, expires_at, api_key, company_id and external_tenant")
	}
	if err == nil {
		_, err = dec.Token() // there is nothing behind the object
	}
	if !errors.Is(err, io.EOF) {
		return errors.New("the line is not one JSON object")
	}
	return nil
}
