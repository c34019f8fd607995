// Package browsertest looks at our pages the way people do: with a real
// Chromium, at the width of a phone, in the dark, by keyboard, and with axe-core
// in the place of a screen reader.
//
// It is for tests with the build tag browser, which `make browser` runs. They
// need chromium and, from npm, what package.json names.
package browsertest
