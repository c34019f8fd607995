package simulator

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// The client that exists where the settings name none. Its secret holds
// characters that the two forms of Basic authentication write differently.
const (
	DefaultClientID     = "5d5f3a80-0f4b-4c5e-9a51-0b5f0c1a7e11"
	DefaultClientSecret = "sim+client/secret%3A:42"
)

// DefaultRedirectURI is registered for the client that exists where the
// settings name none.
const DefaultRedirectURI = "http://127.0.0.1:8486/oauth/callback"

// AllScopes is every scope that the simulated API asks for.
func AllScopes() []string {
	return []string{
		"accounting-entries:read", "accounting-entries:write", "companies:read",
		"export-items:read", "export-jobs:read", "export-jobs:write", "test:test", "users:read",
	}
}

// ErrNotFound is wrapped by the errors about things that do not exist.
var ErrNotFound = errors.New("no such thing")

// Company is a legal entity. Where the id or the name is empty, one is derived
// from the number of the company, the same in every run.
type Company struct {
	ID             string `json:"id"`
	Name           string `json:"name"`
	OrganisationID string `json:"organisation_id"`     // empty: an organisation of its own
	Employees      int    `json:"employees,omitempty"` // 0: 25
}

// Client is an OAuth client registered with the authorization server.
type Client struct {
	ID           string   `json:"id"`
	Secret       string   `json:"secret,omitempty"` // empty: a public client
	Name         string   `json:"name,omitempty"`
	RedirectURIs []string `json:"redirect_uris,omitempty"`
	Scopes       []string `json:"scopes,omitempty"`        // none: [AllScopes]
	PKCEOptional bool     `json:"pkce_optional,omitempty"` // false: PKCE is required
}

// The kinds of [Key].
const (
	StandaloneKey = "standalone_key"
	IntegratedKey = "integrated_key"
)

// Key is an API key. It belongs to a company, or to an organisation if Company
// is empty.
type Key struct {
	ID           string    `json:"id,omitempty"`   // empty: k1, k2, …
	Kind         string    `json:"kind,omitempty"` // empty: [StandaloneKey]
	Value        string    `json:"key,omitempty"`  // empty: one is made up
	Company      string    `json:"company,omitempty"`
	Organisation string    `json:"organisation,omitempty"`
	Scopes       []string  `json:"scopes,omitempty"`    // none: [AllScopes]
	ExpiresAt    time.Time `json:"expires_at,omitzero"` // zero: never
	Revoked      bool      `json:"revoked,omitempty"`
}

// deriveUUID returns the same UUID for the same words in every run.
func deriveUUID(words ...any) string {
	sum := sha256.Sum256([]byte(fmt.Sprintln(words...)))
	sum[6], sum[8] = sum[6]&0x0f|0x40, sum[8]&0x3f|0x80
	h := hex.EncodeToString(sum[:16])
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// hashOf names a token without showing it: the SHA-256 in hexadecimal.
func hashOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// directory is the companies, clients and keys that exist. All methods may be
// called at once.
type directory struct {
	mu        sync.RWMutex      // guards all below
	companies []Company         // in the order of their creation
	index     map[string]int    // id or name of a company → place in companies
	clients   map[string]Client // id → client
	keys      []*Key
	keyIndex  map[string]*Key // id or value → key
}

func newDirectory(s Settings) (*directory, error) {
	w := &directory{index: map[string]int{}, clients: map[string]Client{}, keyIndex: map[string]*Key{}}
	companies, clients := s.Companies, s.Clients
	if len(companies) == 0 {
		companies = make([]Company, 3)
	}
	if len(clients) == 0 {
		clients = []Client{{
			ID: DefaultClientID, Secret: DefaultClientSecret, Name: "Simulated integration",
			RedirectURIs: []string{DefaultRedirectURI},
		}}
	}
	var errs []error
	for _, c := range companies {
		_, err := w.addCompany(c)
		errs = append(errs, err)
	}
	for _, c := range clients {
		errs = append(errs, w.setClient(c))
	}
	for _, k := range s.Keys {
		_, err := w.addKey(k)
		errs = append(errs, err)
	}
	return w, errors.Join(errs...)
}

func (w *directory) addCompany(c Company) (Company, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.companies) + 1
	if c.ID == "" {
		c.ID = deriveUUID("company", n)
	}
	if c.Name == "" {
		c.Name = fmt.Sprintf("Company %d ApS", n)
	}
	if c.OrganisationID == "" {
		c.OrganisationID = deriveUUID("organisation", c.ID)
	}
	if c.Employees == 0 {
		c.Employees = 25
	}
	_, idTaken := w.index[c.ID]
	_, nameTaken := w.index[c.Name]
	if idTaken || nameTaken {
		return Company{}, fmt.Errorf("adding company %q: its id or name is taken", c.Name)
	}
	w.index[c.ID], w.index[c.Name] = n-1, n-1
	w.companies = append(w.companies, c)
	return c, nil
}

// company finds a company by id or name.
func (w *directory) company(idOrName string) (Company, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if n, ok := w.index[idOrName]; ok {
		return w.companies[n], nil
	}
	return Company{}, fmt.Errorf("company %q: %w", idOrName, ErrNotFound)
}

// companiesOf lists the companies that a subject covers.
func (w *directory) companiesOf(s subject) []Company {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if n, ok := w.index[s.company]; ok {
		return []Company{w.companies[n]}
	}
	var covered []Company
	for _, c := range w.companies {
		if s.covers(c) {
			covered = append(covered, c)
		}
	}
	return covered
}

func (w *directory) allCompanies() []Company {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return slices.Clone(w.companies)
}

// setClient adds a client, or puts it in the place of the one with its id.
func (w *directory) setClient(c Client) error {
	if c.ID == "" {
		return errors.New("adding a client: it has no id")
	}
	if len(c.Scopes) == 0 {
		c.Scopes = AllScopes()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clients[c.ID] = c
	return nil
}

func (w *directory) client(id string) (Client, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	c, ok := w.clients[id]
	if !ok {
		return Client{}, fmt.Errorf("client %q: %w", id, ErrNotFound)
	}
	return c, nil
}

// clientOrFirst returns the client with the id, or for an empty one the client
// with the lowest id.
func (w *directory) clientOrFirst(id string) (Client, error) {
	if id != "" {
		return w.client(id)
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.clients[slices.Min(slices.Collect(maps.Keys(w.clients)))], nil
}

func (w *directory) addKey(k Key) (Key, error) {
	k, err := w.completeKey(k)
	if err != nil {
		return Key{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if k.ID == "" {
		k.ID = fmt.Sprintf("k%d", len(w.keys)+1)
	}
	if w.keyIndex[k.ID] != nil || w.keyIndex[k.Value] != nil {
		return Key{}, fmt.Errorf("adding key %q: its id or value is taken", k.ID)
	}
	w.keys = append(w.keys, &k)
	w.keyIndex[k.ID], w.keyIndex[k.Value] = &k, &k
	return k, nil
}

// completeKey fills in what a key leaves to the simulator.
func (w *directory) completeKey(k Key) (Key, error) {
	if k.Kind == "" {
		k.Kind = StandaloneKey
	}
	if k.Kind != StandaloneKey && k.Kind != IntegratedKey {
		return Key{}, fmt.Errorf("adding a key: kind %q is neither %s nor %s", k.Kind, StandaloneKey, IntegratedKey)
	}
	if k.Organisation == "" {
		c, err := w.company(k.Company)
		if err != nil {
			return Key{}, fmt.Errorf("adding a key: %w", err)
		}
		k.Company = c.ID
	}
	if k.Value == "" {
		k.Value = generateKey(k.Kind)
	}
	if len(k.Scopes) == 0 {
		k.Scopes = AllScopes()
	}
	return k, nil
}

// generateKey makes up a key in the form that Pleo's have: standalone keys start
// with pls_ and end in a checksum, integrated keys are just opaque.
func generateKey(kind string) string {
	if kind == IntegratedKey {
		return "plp_" + rand.Text()
	}
	random := make([]byte, 16)
	_, _ = rand.Read(random) // never fails, says its documentation
	body := hex.EncodeToString(random)
	return "pls_" + body + "_" + hashOf(body)[:6]
}

// liveKey returns the key with the value if it exists, is not revoked and has
// not expired.
func (w *directory) liveKey(value string, now time.Time) (Key, bool) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	k, ok := w.keyIndex[value]
	if !ok || k.Value != value || k.Revoked || (!k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt)) {
		return Key{}, false
	}
	return *k, true
}

func (w *directory) allKeys() []Key {
	w.mu.RLock()
	defer w.mu.RUnlock()
	all := make([]Key, 0, len(w.keys))
	for _, k := range w.keys {
		all = append(all, *k)
	}
	return all
}

func (w *directory) isKey(id string) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	k := w.keyIndex[id]
	return k != nil && k.ID == id
}

func (w *directory) revokeKey(id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	k, ok := w.keyIndex[id]
	if !ok {
		return fmt.Errorf("key %q: %w", id, ErrNotFound)
	}
	k.Revoked = true
	return nil
}

// subject is the company or organisation that a credential is for. Exactly one
// of the two is set.
type subject struct {
	company      string
	organisation string
}

// urn returns the subject as Pleo writes it.
func (s subject) urn() string {
	if s.company != "" {
		return "urn:pleo:company:" + s.company
	}
	return "urn:pleo:organisation:" + s.organisation
}

func (s subject) covers(c Company) bool {
	if s.company != "" {
		return s.company == c.ID
	}
	return s.organisation == c.OrganisationID
}
