// Package deploy tests the image, the charts, the compose files, the systemd unit and the
// packages: the tools that consume these files parse them, and the tests run the result as
// far as that is possible on one machine without a container engine or a cluster.
//
// It is a separate module, so that the program does not depend on what the tests need.
package deploy
