//go:build race

package main

// raceDetector is whether the program under test is several times slower than the one
// that users run.
const raceDetector = true
