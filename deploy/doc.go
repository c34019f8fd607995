// Package deploy holds what the program is deployed with to its word: the image,
// the charts, the compose files, the systemd unit and the packages are read by
// the parsers of those who will run them, and then run, as far as one machine
// without an engine and without a cluster goes.
//
// It is a module of its own, so that what these tests need does not become
// something that users of the program depend on.
package deploy
