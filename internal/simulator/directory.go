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

// The client that exists if the settings name none. Its secret contains
// characters that the two forms of HTTP Basic authentication encode differently.
const (
	DefaultClientID     = "5d5f3a80-0f4b-4c5e-9a51-0b5f0c1a7e11"
	DefaultClientSecret = "sim+client/secret%3A:42"
	DefaultRedirectURI  = "http://127.0.0.1:8486/oauth/callback"
)

// AllScopes returns the scopes of Pleo's API that a client may request.
func AllScopes() []string {
	return []string{
		"accounting-entries:read", "accounting-entries:write", "companies:read",
		"export-items:read", "export-jobs:read", "export-jobs:write", "test:test", "users:read",
	}
}

// ErrNotFound is wrapped by errors about things that do not exist.
var ErrNotFound = errors.New("not found")

// Company is a company at Pleo. An empty id or name is derived from the number
// of the company, so it is the same in every run.
type Company struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Employees int    `json:"employees,omitempty"` // 0: 25
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

// The kinds of a [Key].
const (
	StandaloneKey = "standalone_key"
	IntegratedKey = "integrated_key"
)

// Key is an API key of a company.
type Key struct {
	ID        string    `json:"id,omitempty"`        // empty: k1, k2, …
	Kind      string    `json:"kind,omitempty"`      // empty: [StandaloneKey]
	Value     string    `json:"key,omitempty"`       // empty: generated
	Company   string    `json:"company"`             // id or name
	Scopes    []string  `json:"scopes,omitempty"`    // none: [AllScopes]
	ExpiresAt time.Time `json:"expires_at,omitzero"` // zero: never
	Revoked   bool      `json:"revoked,omitempty"`
}

// deriveUUID returns a UUID that depends on its arguments only.
func deriveUUID(parts ...any) string {
	sum := sha256.Sum256([]byte(fmt.Sprintln(parts...)))
	sum[6], sum[8] = sum[6]&0x0f|0x40, sum[8]&0x3f|0x80
	h := hex.EncodeToString(sum[:16])
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// hashOf identifies a token without revealing it: its SHA-256 in hexadecimal.
func hashOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// subjectURN returns a company's id in the form of Pleo's subjects.
func subjectURN(companyID string) string { return "urn:pleo:company:" + companyID }

// directory holds the companies, clients and keys. It is safe for concurrent use.
type directory struct {
	mu        sync.RWMutex      // guards all below
	companies []Company         // in the order of their creation
	index     map[string]int    // id or name of a company → place in companies
	clients   map[string]Client // id → client
	keys      []*Key
	keyIndex  map[string]*Key // id or value → key
}

// newDirectory returns a directory with the contents of the settings: three
// companies and one client if they name none. The error lists every problem.
func newDirectory(s Settings) (*directory, error) {
	d := &directory{index: map[string]int{}, clients: map[string]Client{}, keyIndex: map[string]*Key{}}
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
		_, err := d.addCompany(c)
		errs = append(errs, err)
	}
	for _, c := range clients {
		errs = append(errs, d.setClient(c))
	}
	for _, k := range s.Keys {
		_, err := d.addKey(k)
		errs = append(errs, err)
	}
	return d, errors.Join(errs...)
}

func (d *directory) addCompany(c Company) (Company, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.companies) + 1
	if c.ID == "" {
		c.ID = deriveUUID("company", n)
	}
	if c.Name == "" {
		c.Name = fmt.Sprintf("Company %d ApS", n)
	}
	if c.Employees == 0 {
		c.Employees = 25
	}
	_, idTaken := d.index[c.ID]
	_, nameTaken := d.index[c.Name]
	if idTaken || nameTaken {
		return Company{}, fmt.Errorf("adding company %q: its id or name is taken", c.Name)
	}
	d.index[c.ID], d.index[c.Name] = n-1, n-1
	d.companies = append(d.companies, c)
	return c, nil
}

// company finds a company by id or name.
func (d *directory) company(idOrName string) (Company, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if n, ok := d.index[idOrName]; ok {
		return d.companies[n], nil
	}
	return Company{}, fmt.Errorf("company %q: %w", idOrName, ErrNotFound)
}

// companyOrNew finds a company, or adds one if idOrName is empty.
func (d *directory) companyOrNew(idOrName string) (Company, error) {
	if idOrName == "" {
		return d.addCompany(Company{})
	}
	return d.company(idOrName)
}

func (d *directory) allCompanies() []Company {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.Clone(d.companies)
}

// setClient adds a client, or replaces the one with the same id.
func (d *directory) setClient(c Client) error {
	if c.ID == "" {
		return errors.New("adding a client: it has no id")
	}
	if len(c.Scopes) == 0 {
		c.Scopes = AllScopes()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clients[c.ID] = c
	return nil
}

func (d *directory) client(id string) (Client, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	c, ok := d.clients[id]
	if !ok {
		return Client{}, fmt.Errorf("client %q: %w", id, ErrNotFound)
	}
	return c, nil
}

// clientOrDefault returns the client with the id, or the client with the lowest
// id if it is empty.
func (d *directory) clientOrDefault(id string) (Client, error) {
	if id != "" {
		return d.client(id)
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.clients[slices.Min(slices.Collect(maps.Keys(d.clients)))], nil
}

func (d *directory) addKey(k Key) (Key, error) {
	k, err := d.completeKey(k)
	if err != nil {
		return Key{}, fmt.Errorf("adding a key: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if k.ID == "" {
		k.ID = fmt.Sprintf("k%d", len(d.keys)+1)
	}
	if d.keyIndex[k.ID] != nil || d.keyIndex[k.Value] != nil {
		return Key{}, fmt.Errorf("adding key %q: its id or value is taken", k.ID)
	}
	d.keys = append(d.keys, &k)
	d.keyIndex[k.ID], d.keyIndex[k.Value] = &k, &k
	return k, nil
}

// completeKey replaces the company's name by its id and fills in what is empty,
// except for the id.
func (d *directory) completeKey(k Key) (Key, error) {
	if k.Kind == "" {
		k.Kind = StandaloneKey
	}
	if k.Kind != StandaloneKey && k.Kind != IntegratedKey {
		return Key{}, fmt.Errorf("kind %q is neither %s nor %s", k.Kind, StandaloneKey, IntegratedKey)
	}
	c, err := d.company(k.Company)
	if err != nil {
		return Key{}, err
	}
	k.Company = c.ID
	if k.Value == "" {
		k.Value = generateKey(k.Kind)
	}
	if len(k.Scopes) == 0 {
		k.Scopes = AllScopes()
	}
	return k, nil
}

// generateKey generates a key in Pleo's form: standalone keys start with pls_ and
// end with a checksum, integrated keys are opaque.
func generateKey(kind string) string {
	if kind == IntegratedKey {
		return "plp_" + rand.Text()
	}
	random := make([]byte, 16)
	_, _ = rand.Read(random) // never returns an error
	body := hex.EncodeToString(random)
	return "pls_" + body + "_" + hashOf(body)[:6]
}

// validKey returns the key with the value if it exists, is not revoked and has
// not expired.
func (d *directory) validKey(value string, now time.Time) (Key, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	k, ok := d.keyIndex[value]
	if !ok || k.Value != value || k.Revoked || (!k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt)) {
		return Key{}, false
	}
	return *k, true
}

func (d *directory) allKeys() []Key {
	d.mu.RLock()
	defer d.mu.RUnlock()
	all := make([]Key, 0, len(d.keys))
	for _, k := range d.keys {
		all = append(all, *k)
	}
	return all
}

// isKey reports whether the id is that of a key.
func (d *directory) isKey(id string) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	k := d.keyIndex[id]
	return k != nil && k.ID == id
}

func (d *directory) revokeKey(id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	k, ok := d.keyIndex[id]
	if !ok {
		return fmt.Errorf("key %q: %w", id, ErrNotFound)
	}
	k.Revoked = true
	return nil
}
