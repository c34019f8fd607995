package credstore

// Binding says what a store was made for. A store remembers the stamp it was
// first opened with, and refuses another one.
type Binding struct {
	Environment string // production, staging or custom
	AuthURL     string // of the authorization server
	ClientID    string // of OAuth; empty while only API keys are used, then filled in once
}
