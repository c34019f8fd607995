// Package demo tests the demo, demo.sh.
package demo
