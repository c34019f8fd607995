package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// asProgram makes the test binary run as pleo-auth-proxy, so that tests can
// run, kill and inspect the real program.
const asProgram = "TEST_AS_PROGRAM"

// quickExit removes the pause of a second at the exit of a program with the race
// detector.
const quickExit = "GORACE=atexit_sleep_ms=0"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	testscript.Main(closing{m}, map[string]func(){"pleo-auth-proxy": main})
}
