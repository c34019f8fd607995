package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// stage is what the demo plays on.
type stage struct {
	bin  string // folder of the programs
	out  io.Writer
	curl curl

	pleo  *process
	proxy *process
	said  struct { // by the simulator, when it was ready
		APIURL       string `json:"api_url"`
		AuthURL      string `json:"auth_url"`
		ControlURL   string `json:"control_url"`
		ClientID     string `json:"client_id"`
		ClientSecret string `json:"client_secret"`
		Companies    []struct {
			ID   string `json:"id"`
			Name string `json:"name"`
		} `json:"companies"`
	}
	listen struct { // by the proxy
		Proxy string `json:"proxy"`
		Admin string `json:"admin"`
	}
	grant grant
	step  int
}

// grant is what an OAuth client holds after consent.
type grant struct {
	ID           string    `json:"grant"`
	CompanyID    string    `json:"company_id"`
	AccessToken  string    `json:"access_token"`
	RefreshToken string    `json:"refresh_token"`
	ExpiresAt    time.Time `json:"expires_at"`
}

// connection is what the admin API tells about one.
type connection struct {
	Status  string  `json:"status"`
	Reason  *string `json:"reason"`
	Version int     `json:"version"`
}

// explain begins a step with a line that says what happens in it.
func (s *stage) explain(format string, args ...any) {
	s.step++
	fmt.Fprintf(s.out, "\n%d. %s\n", s.step, fmt.Sprintf(format, args...))
}

// show prints text below what was explained.
func (s *stage) show(text string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		fmt.Fprintf(s.out, "     %s\n", strings.TrimRight(line, "\n"))
	}
}

// program returns the path of a program.
func (s *stage) program(name string) string { return filepath.Join(s.bin, name) }

// command runs a command of the proxy, and shows it with what it says.
func (s *stage) command(ctx context.Context, stdin string, args ...string) error {
	args = append([]string{"--config", filepath.Join(workDir, "config.yaml")}, args...)
	cmd := exec.CommandContext(ctx, s.program("pleo-auth-proxy"), args...)
	cmd.Env = environ()
	cmd.Stdin = strings.NewReader(stdin)
	s.show("$ " + strings.Join(cmd.Args, " "))
	out, err := cmd.CombinedOutput()
	s.show(string(out))
	if err != nil {
		return fmt.Errorf("running %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// longBody is how much of an answer is shown.
const longBody = 230

// get asks for a path of the API on behalf of a connection, and shows request
// and answer. It is an error if the answer has another status than wanted.
func (s *stage) get(ctx context.Context, connection, path string, want int) (answer, error) {
	r := request{connection: connection, url: "http://" + s.listen.Proxy + path}
	s.show("$ " + r.line())
	a, err := s.curl.send(ctx, r)
	if err != nil {
		return answer{}, err
	}
	body := string(bytes.TrimSpace(a.body))
	if want == http.StatusOK && len(body) > longBody {
		body = body[:longBody] + " …"
	}
	s.show(a.line + "\n" + body)
	if a.status != want {
		return answer{}, fmt.Errorf("%s answered %d, not %d", path, a.status, want)
	}
	return a, nil
}

// control asks the simulator to do something, and reads its answer into out
// unless that is nil.
func (s *stage) control(ctx context.Context, method, path string, in, out any) error {
	return askJSON(ctx, method, s.said.ControlURL+"/_control/"+path, in, out)
}

// look asks the admin listener about a connection.
func (s *stage) look(ctx context.Context, name string) (connection, error) {
	var c connection
	err := askJSON(ctx, http.MethodGet, "http://"+s.listen.Admin+"/api/v1/connections/"+name, nil, &c)
	return c, err
}

func askJSON(ctx context.Context, method, url string, in, out any) error {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, url, &body)
	if err != nil {
		return err
	}
	res, err := direct().Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // what is wanted of it has been read
	if res.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s %s answered %s", method, url, res.Status)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(res.Body).Decode(out)
}

// The demo looks whether something has happened at this pace, and gives it this
// long: a good deal more than the life of a token.
const (
	lookEvery = 50 * time.Millisecond
	lookFor   = 15 * time.Second
)

// await returns once happened says that it has.
func await(ctx context.Context, what string, happened func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		yes, err := happened(ctx)
		if err != nil || yes {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}

// clear ends what still runs, whatever happened before.
func (s *stage) clear() {
	for _, p := range []*process{s.proxy, s.pleo} {
		if p != nil {
			_ = p.stop() // the demo has failed already, or was interrupted
		}
	}
}

// end ends both programs, the proxy first.
func (s *stage) end() error {
	proxy, pleo := s.proxy, s.pleo
	s.proxy, s.pleo = nil, nil
	return errors.Join(proxy.stop(), pleo.stop())
}

// The files that the programs log to.
func proxyLog() string { return filepath.Join(workDir, "proxy.log") }
func pleoLog() string  { return filepath.Join(workDir, "pleo-sim.log") }

// showLogs prints what the programs logged.
func (s *stage) showLogs(w io.Writer) {
	for _, path := range []string{proxyLog(), pleoLog()} {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has not come to that
		}
		fmt.Fprintf(w, "\n%s:\n%s", path, text)
	}
}
