package setup

import (
	"context"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/cmd/pleo-auth-proxy/internal/config"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/keyset"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore/sqlstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/spool"
)

// KeyStatus is a key, and what is encrypted under it.
type KeyStatus struct {
	Fingerprint  string `json:"fingerprint"`
	Primary      bool   `json:"primary"`
	Rows         int    `json:"rows"`          // connections with a secret that is encrypted under it
	SpoolRecords int    `json:"spool_records"` // token pairs in this machine's spool
	Store        bool   `json:"store"`         // the store encrypts new secrets under it
	CanRetire    bool   `json:"can_retire"`
}

// KeysetStatus is the keys of a keyset, and what else is encrypted.
type KeysetStatus struct {
	File    string      `json:"file"`
	Primary string      `json:"primary"`
	Keys    []KeyStatus `json:"keys"`
	// UnknownRows counts the connections that are damaged, or encrypted under keys
	// that are not in the keyset.
	UnknownRows         int `json:"unknown_rows"`
	UnknownSpoolRecords int `json:"unknown_spool_records"`
}

// ReadKeysetStatus returns the status of the keyset. A nil store means that there is
// none.
func ReadKeysetStatus(ctx context.Context, cfg *config.Config, keys *keyset.Keyset, store *sqlstore.Store) (KeysetStatus, error) {
	status := KeysetStatus{File: cfg.Store.KeysetFile, Primary: keys.Fingerprint()}
	pairs, err := spool.Keys(cfg.Store.SpoolDir)
	if err != nil {
		return status, err
	}
	var use sqlstore.KeyUsage
	if store != nil {
		if use, err = store.Keys.Usage(ctx); err != nil {
			return status, err
		}
	}
	for _, key := range keys.Keys() {
		s := KeyStatus{
			Fingerprint: key.Fingerprint, Primary: key.Primary, Store: key.Fingerprint == use.Current,
			Rows: use.Connections[key.ID], SpoolRecords: pairs[key.ID],
		}
		s.CanRetire = !s.Primary && !s.Store && s.Rows == 0 && s.SpoolRecords == 0
		status.Keys = append(status.Keys, s)
		delete(use.Connections, key.ID)
		delete(pairs, key.ID)
	}
	status.UnknownRows, status.UnknownSpoolRecords = use.Damaged+Sum(use.Connections), Sum(pairs)
	return status, nil
}

// Sum returns the sum of counts by key.
func Sum(counts map[uint32]int) (total int) {
	for _, n := range counts {
		total += n
	}
	return total
}
