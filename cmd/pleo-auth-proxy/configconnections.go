package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/connect"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
)

const (
	// keyFileInterval is how often the files of declared keys are looked at.
	keyFileInterval = time.Second
	// identifyInterval is how often the API is asked whose a key is when it did not
	// tell, or the store did not take the key.
	identifyInterval = time.Minute
	// configConnectionsStartTimeout is how long the API may hold up a start for that.
	configConnectionsStartTimeout = 5 * time.Second
)

// configActor is who changes connections, in their history.
const configActor = "configuration"

// configKeys brings the connections that the configuration declares into the
// store, and follows the files of their keys. What the configuration says wins:
// it is where these keys are kept.
type configConnections struct {
	store   credstore.Store
	manager *refresh.Manager
	api     introspector
	now     func() time.Time
	log     *zap.Logger

	connections []*configConnection
}

// configConnection is one of them. It belongs to the goroutine that keeps it.
type configConnection struct {
	config.Connection
	key func() credstore.Secret // as it is now

	storedKey   credstore.Secret // the key that is known to be in the store
	triedKey    credstore.Secret // the key that keep has tried to put there
	checkedAt   time.Time        // when the API was asked last whose it is
	identified  bool             // the company is known
	loggedError string           // what was logged last, so that it is logged once
}

// openConfigConnections reads the keys for the first time. Its error holds every file
// that cannot be used.
func openConfigConnections(cfg *config.Config, log *zap.Logger) ([]*configConnection, error) {
	var (
		connections []*configConnection
		wrong       config.Error
	)
	for i, c := range cfg.Connections {
		name := c.APIKey.Key(fmt.Sprintf("connections[%d].api_key", i))
		reader, err := c.APIKey.Open()
		if err == nil && !reader.Secret().Sendable() {
			err = errNotSendable
		}
		if err != nil {
			wrong.Mistakes = append(wrong.Mistakes, cfg.MistakeAt(name, err))
			continue
		}
		connections = append(connections, &configConnection{Connection: c, key: secretFile(name, reader, log)})
	}
	if len(wrong.Mistakes) > 0 {
		return nil, &wrong
	}
	return connections, nil
}

// start brings all of them into the store. What a person has to mend is a
// [credstore.SetupError]; what may pass by itself run tries again.
func (d *configConnections) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, configConnectionsStartTimeout)
	defer cancel()
	for _, c := range d.connections {
		err := d.applyKey(ctx, c)
		var setup *credstore.SetupError
		if errors.As(err, &setup) {
			return err
		}
		d.logFailure(c, err)
	}
	if err := d.recordNames(ctx); err != nil {
		d.log.Warn("the names of declared connections could not be recorded", zap.Error(err))
	}
	return nil
}

// configKeyError says that a connection has its key from the configuration. One that
// somebody gives it otherwise would be gone after the next start.
type configKeyError struct{ name string }

func (e *configKeyError) Error() string {
	return fmt.Sprintf("connection %q has its key from the configuration (connections), which wins: replace it there", e.name)
}

// checkNotInConfig returns a *configKeyError for a connection that the
// configuration declares.
func checkNotInConfig(cfg *config.Config, name string) error {
	if slices.ContainsFunc(cfg.Connections, func(c config.Connection) bool { return c.Name == name }) {
		return &configKeyError{name}
	}
	return nil
}

// linkStore is a store that makes links for connections that are not
// declared.
type linkStore struct {
	store credstore.Store
	cfg   *config.Config
}

// OpenLink implements [connect.LinkStore].
func (s linkStore) OpenLink(ctx context.Context, id string, r credstore.LinkRequest) (credstore.Secret, credstore.Link, error) {
	if len(s.cfg.Connections) > 0 {
		state, err := s.store.Connections.Read(ctx, id)
		if err == nil {
			err = checkNotInConfig(s.cfg, state.Connection.Name)
		}
		if err != nil {
			return credstore.Secret{}, credstore.Link{}, err
		}
	}
	return s.store.Links.OpenLink(ctx, id, r)
}

// connectLinkFunc returns what clients are told where a person can mend a
// connection: nothing of a declared one, which no page can mend.
func connectLinkFunc(links *connect.LinkIssuer) func(ctx context.Context, id string, version int64) (string, error) {
	return func(ctx context.Context, id string, version int64) (string, error) {
		link, err := links.Link(ctx, id, version)
		var declared *configKeyError
		if errors.As(err, &declared) {
			return "", nil
		}
		return link, err
	}
}

// configConnectionsFact is the name of the fact that holds, in JSON, the names of the
// connections that were ever declared and are in the store.
const configConnectionsFact = "declared_connections"

// recordNames records the names, and says which connections the configuration
// declares no more. They stay: only an operator knows whether somebody else
// still needs them.
func (d *configConnections) recordNames(ctx context.Context) error {
	text, err := d.store.Changes.Fact(ctx, configConnectionsFact)
	if err != nil || text == "" && len(d.connections) == 0 {
		return err
	}
	var before, now []string
	if text != "" {
		if err := json.Unmarshal([]byte(text), &before); err != nil {
			return fmt.Errorf("reading the fact %s: %w", configConnectionsFact, err)
		}
	}
	for _, c := range d.connections {
		now = append(now, c.Name)
	}
	for _, name := range before {
		if slices.Contains(now, name) {
			continue
		}
		_, err := d.store.Connections.Find(ctx, name)
		if errors.Is(err, credstore.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		now = append(now, name)
		d.log.Warn("a connection is not declared any more and still in the store with its key; remove it with connections remove", zap.String("connection", name))
	}
	slices.Sort(now)
	after, err := json.Marshal(now)
	if err != nil || string(after) == text {
		return err
	}
	return d.store.Changes.SetFact(ctx, configConnectionsFact, string(after))
}

// run follows the files and learns the companies, until ctx ends.
func (d *configConnections) run(ctx context.Context) {
	if len(d.connections) == 0 {
		return
	}
	ticker := time.NewTicker(keyFileInterval)
	defer ticker.Stop()
	for {
		for _, c := range d.connections {
			err := d.applyKey(ctx, c)
			if ctx.Err() != nil {
				return
			}
			d.logFailure(c, cmp.Or(err, d.identify(ctx, c)))
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// warnAtStartup logs what is wrong with a connection, once.
func (d *configConnections) logFailure(c *configConnection, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != c.loggedError {
		d.log.Error("a declared connection is not as the configuration says; trying again", zap.String("connection", c.Name), zap.Error(err))
	}
	c.loggedError = text
}

// applyKey puts the key into the store if it is another one than before.
func (d *configConnections) applyKey(ctx context.Context, c *configConnection) error {
	key := c.key()
	if key.Equal(c.storedKey) || key.Equal(c.triedKey) && d.now().Sub(c.checkedAt) < identifyInterval {
		return nil
	}
	if !key.Sendable() {
		return errNotSendable
	}
	c.triedKey, c.checkedAt = key, time.Time{}
	ctx = credstore.WithActor(ctx, configActor)
	found, err := d.store.Connections.Find(ctx, c.Name)
	switch {
	case errors.Is(err, credstore.ErrNotFound):
		err = d.create(ctx, c, key)
	case err == nil:
		err = d.replace(ctx, c, found, key)
	}
	if err != nil {
		return fmt.Errorf("keeping connection %q: %w", c.Name, err)
	}
	c.storedKey, c.triedKey, c.identified = key, credstore.Secret{}, false
	return nil
}

func (d *configConnections) create(ctx context.Context, c *configConnection, key credstore.Secret) error {
	_, err := d.store.Connections.Create(ctx, credstore.NewConnection{
		Name: c.Name, Kind: c.Kind, ExternalTenant: c.ExternalTenant,
		Credential: &credstore.NewCredential{APIKey: key},
	})
	var conflict *credstore.ConflictError
	if errors.As(err, &conflict) && conflict.With != c.Name { // else another process was faster
		return &credstore.SetupError{Err: err, Hint: "names must differ by more than upper and lower case; give one of the two another name"}
	}
	return err
}

// replace leaves a key that is there already as it is. The new one is asked about
// first: one that is no good, or another company's, does not take its place.
func (d *configConnections) replace(ctx context.Context, c *configConnection, found credstore.Connection, key credstore.Secret) error {
	if found.Kind != c.Kind {
		return &credstore.SetupError{
			Err:  fmt.Errorf("the configuration declares it as %s, and the store holds it as %s", c.Kind, found.Kind),
			Hint: "give one of the two another name, or remove the one in the store with connections remove",
		}
	}
	if found.ExternalTenant != c.ExternalTenant {
		d.log.Warn("the external tenant of a declared connection stays as it was in the store; remove the connection to change it",
			zap.String("connection", c.Name), zap.String("external_tenant", found.ExternalTenant))
	}
	state, err := d.store.Connections.Read(ctx, found.ID)
	if err != nil || state.Credential.APIKey.Equal(key) {
		return err
	}
	c.checkedAt = d.now()
	_, err = d.manager.SetKey(ctx, apikey.Change{ConnectionID: found.ID, Key: key})
	if err != nil {
		return fmt.Errorf("the old key stays: %w", err)
	}
	d.log.Info("a declared connection has a new key", zap.String("connection", c.Name))
	return nil
}

// identify learns the company of a key, which the configuration does not say.
// An API that is away, or that does not accept the key, is asked again later.
func (d *configConnections) identify(ctx context.Context, c *configConnection) error {
	if c.identified || c.storedKey.IsZero() || d.now().Sub(c.checkedAt) < identifyInterval {
		return nil
	}
	found, err := d.store.Connections.Find(ctx, c.Name)
	if err != nil {
		return err
	}
	if c.identified = found.CompanyID != "" || found.Subject != ""; c.identified {
		return nil
	}
	c.checkedAt = d.now()
	who, err := d.api.Introspect(ctx, pleo.AuthorizationHeader(c.Kind, credstore.Credential{APIKey: c.storedKey}))
	if err != nil {
		return fmt.Errorf("asking whose key connection %q has: %w", c.Name, err)
	}
	c.identified = true
	ctx = credstore.WithActor(ctx, configActor)
	return d.store.Connections.SetCompany(ctx, found.ID, who.Company())
}
