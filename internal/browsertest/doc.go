// Package browsertest tests pages in Chromium.
//
// It is for tests with the build tag browser, which `make browser` runs. They
// require chromium and the npm packages of package.json.
package browsertest
