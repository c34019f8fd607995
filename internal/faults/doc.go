// Package faults tries to make the program lose a token. Its tests kill, pause
// and stop the real program, fail its disk, and cut, delay and spoil the
// answers of a simulated Pleo, which counts how often each refresh token was
// presented.
//
// The tests take minutes, so a plain go test skips them:
//
//	make faults        a tenth of the trials
//	make faults-full   all of them
//
// Each run ends with a table. docs/reliability.md says what the faults are, and
// holds the table of a full run.
package faults
