package sqlstore

// schema returns the migrations in their order. The n-th brings a store from
// version n-1 to version n of the schema, in one transaction. One that has been
// released is never edited.
//
// Times are Unix milliseconds, UTC, NULL where there is none. A connection's
// number is never used again, not even after a removal: leases stand on it.
func schema() []string { return []string{schema1} }

const schema1 = `
CREATE TABLE store (
	one             INTEGER PRIMARY KEY CHECK (one = 1),
	id              TEXT NOT NULL,
	environment     TEXT NOT NULL,
	auth_url        TEXT NOT NULL,
	client_id       TEXT NOT NULL,    -- empty until one is known
	key_fingerprint TEXT NOT NULL,    -- of the key that sealed the canary
	canary          BLOB NOT NULL,
	created_at      INTEGER NOT NULL
) STRICT;

CREATE TABLE facts (
	name  TEXT PRIMARY KEY,
	value TEXT NOT NULL
) STRICT;

CREATE TABLE connections (
	number          INTEGER PRIMARY KEY AUTOINCREMENT,
	id              TEXT NOT NULL UNIQUE,
	name            TEXT NOT NULL UNIQUE,
	folded_name     TEXT NOT NULL UNIQUE,   -- in lower case
	kind            TEXT NOT NULL,
	status          TEXT NOT NULL,
	reason          TEXT NOT NULL DEFAULT '',
	error_code      TEXT NOT NULL DEFAULT '',
	error_message   TEXT NOT NULL DEFAULT '',
	error_at        INTEGER,
	company_id      TEXT NOT NULL DEFAULT '',
	company_name    TEXT NOT NULL DEFAULT '',
	subject         TEXT NOT NULL DEFAULT '',
	shared_company  INTEGER NOT NULL DEFAULT 0,
	external_tenant TEXT NOT NULL DEFAULT '',
	search          TEXT NOT NULL,          -- what can be searched, in lower case
	scope           TEXT NOT NULL DEFAULT '',
	created_at      INTEGER NOT NULL,

	version         INTEGER NOT NULL DEFAULT 0,
	refresh_hash    BLOB,                   -- with the version: who may be a parent
	parent_hash     BLOB,                   -- refresh_hash of the version before
	expires_at      INTEGER,
	refreshed_at    INTEGER,

	fence           INTEGER NOT NULL DEFAULT 0, -- of the latest lease that wrote
	retry_at        INTEGER,
	requested_at    INTEGER,                -- by an operator
	unusual         INTEGER NOT NULL DEFAULT 0,
	unusual_since   INTEGER,
	forced_at       INTEGER,
	forced_streak   INTEGER NOT NULL DEFAULT 0,
	refused_at      INTEGER
) STRICT;

CREATE UNIQUE INDEX connections_company ON connections (kind, company_id)
	WHERE company_id <> '' AND shared_company = 0;
CREATE INDEX connections_token ON connections (refresh_hash) WHERE kind = 'oauth';
CREATE INDEX connections_spent ON connections (parent_hash) WHERE parent_hash IS NOT NULL;
CREATE INDEX connections_bound ON connections (company_id) WHERE company_id <> '';
CREATE INDEX connections_status ON connections (status, name, kind);
CREATE INDEX connections_due ON connections (kind, status, refreshed_at);
CREATE INDEX connections_retry ON connections (retry_at) WHERE retry_at IS NOT NULL;
CREATE INDEX connections_requested ON connections (requested_at) WHERE requested_at IS NOT NULL;
CREATE INDEX connections_refused ON connections (refused_at) WHERE refused_at IS NOT NULL;

-- Each column is sealed with a label of its own.
CREATE TABLE credentials (
	connection    INTEGER PRIMARY KEY REFERENCES connections (number) ON DELETE CASCADE,
	access_token  BLOB,
	refresh_token BLOB,
	api_key       BLOB,
	next_key      BLOB
) STRICT;

CREATE TABLE intents (
	connection     INTEGER PRIMARY KEY REFERENCES connections (number) ON DELETE CASCADE,
	parent_version INTEGER NOT NULL,
	parent_hash    BLOB NOT NULL,
	owner          TEXT NOT NULL,
	fence          INTEGER NOT NULL,
	at             INTEGER NOT NULL,
	first_at       INTEGER NOT NULL,
	outcome        TEXT NOT NULL,
	presentations  INTEGER NOT NULL,
	next_at        INTEGER
) STRICT;

-- The latest change of each connection; seq only ever grows. A removed
-- connection leaves its row behind for a while.
CREATE TABLE changes (
	seq           INTEGER PRIMARY KEY AUTOINCREMENT,
	connection_id TEXT NOT NULL UNIQUE,
	at            INTEGER NOT NULL,
	removed       INTEGER NOT NULL
) STRICT;

CREATE INDEX changes_removed ON changes (at) WHERE removed = 1;
`
