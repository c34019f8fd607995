package credstore

// Binding is what a store belongs to. A store keeps the binding that it was first
// opened with, and rejects another one.
type Binding struct {
	Environment string // production, staging or custom
	AuthURL     string // of the authorization server
	ClientID    string // of OAuth; empty while only API keys are used, then set once
}
