//go:build race

package main

// raceDetector says that the program under test runs several times slower than
// the one that users run.
const raceDetector = true
