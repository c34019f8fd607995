package manage

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/apikey"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
)

const (
	// keyFileInterval is how often the key files are checked for changes.
	keyFileInterval = time.Second
	// identifyInterval is how often the API is asked for the company of a key, as
	// long as it did not return one or the key was not stored.
	identifyInterval = time.Minute
	// configKeysStartTimeout is how long the API may delay a start.
	configKeysStartTimeout = 5 * time.Second
)

// configActor is the actor of changes by the configuration, in the history.
const configActor = "configuration"

// ConfigConnection is a connection whose key is in the configuration.
type ConfigConnection struct {
	Name           string
	Kind           credstore.Kind
	ExternalTenant string
	Key            func() credstore.Secret // the current key, such as the content of a file
}

// ConfigKeyStore is what [ConfigKeys] reads and changes.
type ConfigKeyStore interface {
	Find(ctx context.Context, name string) (credstore.Connection, error)
	Read(ctx context.Context, id string) (credstore.State, error)
	Create(ctx context.Context, c credstore.NewConnection) (credstore.Connection, error)
	SetCompany(ctx context.Context, id string, company credstore.Company) error
}

// FactStore stores facts about the store as a whole.
type FactStore interface {
	Fact(ctx context.Context, name string) (string, error)
	SetFact(ctx context.Context, name, value string) error
}

// Introspecter asks the API which company a credential belongs to.
type Introspecter interface {
	Introspect(ctx context.Context, authorization credstore.Secret) (pleo.Identity, error)
}

// ConfigKeys keeps the connections of the configuration in the store, and follows
// changes of their keys. The configuration takes precedence over what is stored.
// All fields are required. Start and Run must not be called at once.
type ConfigKeys struct {
	Store  ConfigKeyStore
	Facts  FactStore
	Keys   KeySetter
	API    Introspecter
	Logger *zap.Logger

	connections []*configConnection
}

type configConnection struct {
	ConfigConnection

	storedKey   credstore.Secret // the key that is known to be stored
	triedKey    credstore.Secret // the key that apply has tried to store
	checkedAt   time.Time        // when the API was last asked for the company
	identified  bool             // the company is known
	loggedError string           // what was logged last, so that it is logged once
}

// Add adds a connection. It must be called before Start.
func (k *ConfigKeys) Add(c ConfigConnection) {
	k.connections = append(k.connections, &configConnection{ConfigConnection: c})
}

// Start puts all connections into the store. It returns a [credstore.SetupError]
// for what an operator must fix; what may pass by itself is logged, and Run tries
// again.
func (k *ConfigKeys) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, configKeysStartTimeout)
	defer cancel()
	for _, c := range k.connections {
		err := k.apply(ctx, c)
		var setup *credstore.SetupError
		if errors.As(err, &setup) {
			return err
		}
		k.logFailure(c, err)
	}
	if err := k.recordNames(ctx); err != nil {
		k.Logger.Warn("cannot record the names of the connections in the configuration", zap.Error(err))
	}
	return nil
}

// Run follows the keys and learns the companies, until ctx ends.
func (k *ConfigKeys) Run(ctx context.Context) {
	if len(k.connections) == 0 {
		return
	}
	ticker := time.NewTicker(keyFileInterval)
	defer ticker.Stop()
	for {
		for _, c := range k.connections {
			err := k.apply(ctx, c)
			if ctx.Err() != nil {
				return
			}
			k.logFailure(c, cmp.Or(err, k.identify(ctx, c)))
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// logFailure logs what is wrong with a connection, once.
func (k *ConfigKeys) logFailure(c *configConnection, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != c.loggedError {
		k.Logger.Error("cannot apply a connection of the configuration; trying again", zap.String("connection", c.Name), zap.Error(err))
	}
	c.loggedError = text
}

// apply stores the key of the configuration if it is another one than before.
func (k *ConfigKeys) apply(ctx context.Context, c *configConnection) error {
	key := c.Key()
	if key.Equal(c.storedKey) || key.Equal(c.triedKey) && time.Since(c.checkedAt) < identifyInterval {
		return nil
	}
	if !key.Sendable() {
		return ErrNotSendable
	}
	c.triedKey, c.checkedAt = key, time.Time{}
	ctx = credstore.WithActor(ctx, configActor)
	stored, err := k.Store.Find(ctx, c.Name)
	switch {
	case errors.Is(err, credstore.ErrNotFound):
		err = k.create(ctx, c, key)
	case err == nil:
		err = k.replace(ctx, c, stored, key)
	}
	if err != nil {
		return fmt.Errorf("applying connection %q of the configuration: %w", c.Name, err)
	}
	c.storedKey, c.triedKey, c.identified = key, credstore.Secret{}, false
	return nil
}

func (k *ConfigKeys) create(ctx context.Context, c *configConnection, key credstore.Secret) error {
	_, err := k.Store.Create(ctx, credstore.NewConnection{
		Name: c.Name, Kind: c.Kind, ExternalTenant: c.ExternalTenant,
		Credential: &credstore.NewCredential{APIKey: key},
	})
	var conflict *credstore.ConflictError
	if errors.As(err, &conflict) && conflict.With != c.Name { // else another process was faster
		return &credstore.SetupError{Err: err, Hint: "names must differ by more than upper and lower case; rename one of the two"}
	}
	return err
}

// replace stores a new key. Pleo checks it first: a key that Pleo rejects, or that
// belongs to another company, does not replace the stored one.
func (k *ConfigKeys) replace(ctx context.Context, c *configConnection, stored credstore.Connection, key credstore.Secret) error {
	if stored.Kind != c.Kind {
		return &credstore.SetupError{
			Err:  fmt.Errorf("its kind is %s in the configuration and %s in the store", c.Kind, stored.Kind),
			Hint: "rename one of the two, or remove the one in the store with connections remove",
		}
	}
	if stored.ExternalTenant != c.ExternalTenant {
		k.Logger.Warn("the external tenant of a stored connection does not follow the configuration; remove the connection to change it",
			zap.String("connection", c.Name), zap.String("external_tenant", stored.ExternalTenant))
	}
	state, err := k.Store.Read(ctx, stored.ID)
	if err != nil || state.Credential.APIKey.Equal(key) {
		return err
	}
	c.checkedAt = time.Now()
	if _, err = k.Keys.SetKey(ctx, apikey.Change{ConnectionID: stored.ID, Key: key}); err != nil {
		return fmt.Errorf("keeping the old key: %w", err)
	}
	k.Logger.Info("a connection of the configuration has a new key", zap.String("connection", c.Name))
	return nil
}

// identify learns the company of a key, which the configuration does not say. An
// API that is unreachable, or that rejects the key, is asked again later.
func (k *ConfigKeys) identify(ctx context.Context, c *configConnection) error {
	if c.identified || c.storedKey.IsZero() || time.Since(c.checkedAt) < identifyInterval {
		return nil
	}
	stored, err := k.Store.Find(ctx, c.Name)
	if err != nil {
		return err
	}
	if c.identified = stored.CompanyID != "" || stored.Subject != ""; c.identified {
		return nil
	}
	c.checkedAt = time.Now()
	identity, err := k.API.Introspect(ctx, pleo.AuthorizationHeader(c.Kind, credstore.Credential{APIKey: c.storedKey}))
	if err != nil {
		return fmt.Errorf("asking for the company of connection %q: %w", c.Name, err)
	}
	c.identified = true
	return k.Store.SetCompany(credstore.WithActor(ctx, configActor), stored.ID, identity.Company())
}

// configKeysFact is the fact that holds the names, as JSON, of the connections that
// were ever in the configuration and are in the store.
const configKeysFact = "declared_connections"

// recordNames records the names, and warns of connections that the configuration
// no longer has. They stay in the store: only the operator knows whether another
// server still needs them.
func (k *ConfigKeys) recordNames(ctx context.Context) error {
	text, err := k.Facts.Fact(ctx, configKeysFact)
	if err != nil || text == "" && len(k.connections) == 0 {
		return err
	}
	var before, now []string
	if text != "" {
		if err := json.Unmarshal([]byte(text), &before); err != nil {
			return fmt.Errorf("reading the fact %s: %w", configKeysFact, err)
		}
	}
	for _, c := range k.connections {
		now = append(now, c.Name)
	}
	for _, name := range before {
		if slices.Contains(now, name) {
			continue
		}
		_, err := k.Store.Find(ctx, name)
		if errors.Is(err, credstore.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		now = append(now, name)
		k.Logger.Warn("a connection is no longer in the configuration, but still in the store with its key; remove it with connections remove", zap.String("connection", name))
	}
	slices.Sort(now)
	after, err := json.Marshal(now)
	if err != nil || string(after) == text {
		return err
	}
	return k.Facts.SetFact(ctx, configKeysFact, string(after))
}
