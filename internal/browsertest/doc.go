// Package browsertest tests pages in Chromium: by mouse and keyboard, on desktop
// and phone, in light and dark, and with axe-core for accessibility.
//
// It is for tests with the build tag browser, which `make browser` runs. They
// require chromium and the npm packages of package.json.
package browsertest
