// Package faults tries to make the program lose a token.
//
// Its tests kill, pause and stop the real program, make its disk fail, and truncate,
// delay and corrupt the responses of a simulated Pleo, which counts how often each
// refresh token is sent.
//
// The tests take minutes, so go test skips them without a flag:
//
//	make faults        a tenth of the trials
//	make faults-full   all of them
//
// Each run ends with a table. docs/reliability.md describes the faults and has the
// table of a full run.
package faults
