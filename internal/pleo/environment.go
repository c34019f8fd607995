package pleo

import "net/url"

// Endpoints are the two servers of an environment. A credential of one environment
// is not valid in another.
type Endpoints struct {
	API  *url.URL
	Auth *url.URL // the authorization server
}

// EndpointsFor returns the servers of an environment of Pleo, production or
// staging, and false for any other. The caller may modify the URLs.
func EndpointsFor(environment string) (Endpoints, bool) {
	switch environment {
	case "production":
		return Endpoints{API: https("external.pleo.io"), Auth: https("auth.pleo.io")}, true
	case "staging":
		return Endpoints{API: https("external.staging.pleo.io"), Auth: https("auth.staging.pleo.io")}, true
	}
	return Endpoints{}, false
}

// AppURL returns the page where people sign in to Pleo, or "" if the environment
// is neither production nor staging.
func AppURL(environment string) string {
	switch environment {
	case "production":
		return "https://app.pleo.io"
	case "staging":
		return "https://app.staging.pleo.io/login"
	}
	return ""
}

func https(host string) *url.URL { return &url.URL{Scheme: "https", Host: host} }
