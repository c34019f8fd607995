package pleo

import "net/url"

// Endpoints are the two servers of an environment. They belong together: a
// credential of one environment is worth nothing in another.
type Endpoints struct {
	API  *url.URL
	Auth *url.URL // the authorization server
}

// EndpointsFor returns the servers of Pleo's environment with the name,
// production or staging. The URLs are the caller's to keep.
func EndpointsFor(environment string) (Endpoints, bool) {
	switch environment {
	case "production":
		return Endpoints{API: https("external.pleo.io"), Auth: https("auth.pleo.io")}, true
	case "staging":
		return Endpoints{API: https("external.staging.pleo.io"), Auth: https("auth.staging.pleo.io")}, true
	}
	return Endpoints{}, false
}

// AppURL returns where people sign in to Pleo in the environment with the name;
// empty where that is not known.
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
