package main

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	_ "modernc.org/sqlite" // to damage stores with

	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/simulator"
)

// TestScripts runs the real program as users do. Each script has a simulated
// Pleo at $SIM and a configuration for it in config.yaml, and these commands
// beside the usual ones:
//
//	exits CODE COMMAND...   runs a command that must end with the exit code
//	grant NAME FILE         issues a grant and adds a line for import to the file
//	key FILE                issues a standalone key and writes it to the file
//	otherkey FILE           issues a key of another company and writes it to the file
//	revoke FILE             revokes the key that the file holds
//	set VAR FILE            sets VAR to what stands in the file
//	taken VAR               sets VAR to an address that is in use
//	sql FILE STATEMENT      changes a store behind the program's back
//	start [VAR=VALUE...]    starts the server with the variables, and sets PROXY, ADMIN and HEALTH
//	logs WORDS              waits until the server has logged the words
//	end SIGNAL CODE         signals the server, which must end with the code
//	get URL [HEADER VALUE]  prints status and body
//	stale FILE              leaves a stale socket behind
//	readonly FILE...        makes files and directories unwritable
//
// and, if there is a PostgreSQL server:
//
//	postgres                keeps the store in it, in an empty schema, which the file dsn is for
//	psql STATEMENT          runs a statement there, and prints the first value that it gives
func TestScripts(t *testing.T) {
	runScripts(t, "testdata/script", setupScript)
}

func runScripts(t *testing.T, dir string, setup func(*testscript.Env) error) {
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		Setup:               setup,
		Condition: func(name string) (bool, error) {
			if name == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("there is no condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":    exitsCommand,
			"grant":    grantCommand,
			"key":      keyCommand,
			"otherkey": otherKeyCommand,
			"revoke":   revokeCommand,
			"set":      setCommand,
			"taken":    takenCommand,
			"sql":      sqlCommand,
			"start":    startCommand,
			"logs":     logsCommand,
			"end":      endCommand,
			"get":      getCommand,
			"stale":    staleCommand,
			"readonly": readonlyCommand,
			"postgres": postgresCommand,
			"psql":     psqlCommand,
		},
	})
}

// The state of scripts between their commands.
type (
	simulatorKey struct{}
	serverKey    struct{}
)

func setupScript(env *testscript.Env) error {
	sim, err := simulator.New(simulator.Config{})
	if err != nil {
		return err
	}
	server := httptest.NewServer(sim.Handler())
	env.Defer(server.Close)
	env.Defer(sim.Close)
	env.Setenv("SIM", server.URL)
	env.Setenv("HOME", env.WorkDir)
	env.Vars = append(env.Vars, quickExit)
	env.Values[simulatorKey{}] = sim
	env.Values[serverKey{}] = new(*process)
	config := configFor(sim, server.URL, filepath.Join(env.WorkDir, "data"))
	return os.WriteFile(filepath.Join(env.WorkDir, "config.yaml"), []byte(config), 0o600)
}

func exitsCommand(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func simulatorOf(ts *testscript.TestScript) *simulator.Simulator {
	return ts.Value(simulatorKey{}).(*simulator.Simulator)
}

func grantCommand(ts *testscript.TestScript, _ bool, args []string) {
	g, err := simulatorOf(ts).IssueGrant(simulator.GrantRequest{})
	ts.Check(err)
	line, err := json.Marshal(map[string]any{
		"name": args[0], "kind": "oauth", "refresh_token": g.RefreshToken, "access_token": g.AccessToken,
	})
	ts.Check(err)
	f, err := os.OpenFile(ts.MkAbs(args[1]), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	ts.Check(err)
	_, err = fmt.Fprintf(f, "%s\n", line)
	ts.Check(errors.Join(err, f.Close()))
}

func keyCommand(ts *testscript.TestScript, _ bool, args []string) {
	sim := simulatorOf(ts)
	k, err := sim.IssueKey(simulator.Key{Company: sim.Companies()[0].ID})
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(k.Value+"\n"), 0o600))
}

func otherKeyCommand(ts *testscript.TestScript, _ bool, args []string) {
	sim := simulatorOf(ts)
	company, err := sim.AddCompany(simulator.Company{Name: "Another"})
	ts.Check(err)
	k, err := sim.IssueKey(simulator.Key{Company: company.ID})
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(k.Value+"\n"), 0o600))
}

func revokeCommand(ts *testscript.TestScript, _ bool, args []string) {
	value := strings.TrimSpace(ts.ReadFile(args[0]))
	for _, k := range simulatorOf(ts).Keys() {
		if k.Value == value {
			ts.Check(simulatorOf(ts).RevokeKey(k.ID))
			return
		}
	}
	ts.Fatalf("%s holds no key that was issued", args[0])
}

func setCommand(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

func takenCommand(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
	ts.Setenv(args[0], l.Addr().String())
}

func sqlCommand(ts *testscript.TestScript, _ bool, args []string) {
	db, err := sql.Open("sqlite", ts.MkAbs(args[0]))
	ts.Check(err)
	_, err = db.Exec(args[1])
	ts.Check(errors.Join(err, db.Close()))
}

// scriptT makes helpers of tests usable in scripts.
type scriptT struct {
	testing.TB
	ts *testscript.TestScript
}

func (t scriptT) Helper()                          {}
func (t scriptT) Fatal(args ...any)                { t.ts.Fatalf("%s", fmt.Sprint(args...)) }
func (t scriptT) Fatalf(f string, args ...any)     { t.ts.Fatalf(f, args...) }
func (t scriptT) Cleanup(f func())                 { t.ts.Defer(f) }
func serverOf(ts *testscript.TestScript) **process { return ts.Value(serverKey{}).(**process) }

func startCommand(ts *testscript.TestScript, _ bool, environ []string) {
	p := startServer(scriptT{ts: ts}, os.Args[0], ts.MkAbs("."), ts.MkAbs("config.yaml"), environ...)
	*serverOf(ts) = p
	ts.Setenv("PROXY", p.addresses["proxy"])
	ts.Setenv("ADMIN", p.addresses["admin"])
	ts.Setenv("HEALTH", p.addresses["health"])
}

func logsCommand(ts *testscript.TestScript, _ bool, args []string) {
	(*serverOf(ts)).waitForLog(args[0])
}

func endCommand(ts *testscript.TestScript, _ bool, args []string) {
	signals := map[string]os.Signal{
		"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP, "KILL": syscall.SIGKILL,
	}
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	p := *serverOf(ts)
	p.signal(signals[args[0]])
	if got := p.wait(); got != want {
		ts.Fatalf("the server exits %d, want %d:\n%s", got, want, p.log)
	}
	fmt.Fprint(ts.Stderr(), p.log)
}

func getCommand(ts *testscript.TestScript, _ bool, args []string) {
	r, err := http.NewRequest(http.MethodGet, args[0], nil)
	ts.Check(err)
	for i := 1; i+1 < len(args); i += 2 {
		r.Header.Set(args[i], args[i+1])
	}
	a, err := send(http.DefaultClient, r)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%d\n%s", a.status, a.body)
}

func staleCommand(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: ts.MkAbs(args[0])})
	ts.Check(err)
	l.SetUnlinkOnClose(false)
	ts.Check(l.Close())
}

func readonlyCommand(ts *testscript.TestScript, _ bool, args []string) {
	if os.Geteuid() == 0 {
		ts.Fatalf("root can write everywhere: guard this with [!root]")
	}
	for _, name := range args {
		path := ts.MkAbs(name)
		info, err := os.Stat(path)
		ts.Check(err)
		ts.Check(os.Chmod(path, info.Mode().Perm()&^0o222))
		ts.Defer(func() { _ = os.Chmod(path, info.Mode().Perm()) }) // so that it can be removed
	}
}
