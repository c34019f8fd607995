package sqlstore

// schema returns the migrations in order. The n-th migrates a store from version n-1 to
// version n of the schema, in one transaction. A released migration is never edited.
//
// Times are Unix milliseconds, UTC, NULL if there is none. The number of a connection
// is never used again, not even after its removal: leases depend on it.
func schema() []string { return []string{schema1, schema2, schema3, schema4} }

const schema1 = `
CREATE TABLE store (
	one             INTEGER PRIMARY KEY CHECK (one = 1),
	id              TEXT NOT NULL,
	environment     TEXT NOT NULL,
	auth_url        TEXT NOT NULL,
	client_id       TEXT NOT NULL,    -- empty until one is known
	key_fingerprint TEXT NOT NULL,    -- of the key that the canary is encrypted with
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
	search          TEXT NOT NULL,          -- the text that is searched, in lower case
	scope           TEXT NOT NULL DEFAULT '',
	created_at      INTEGER NOT NULL,

	version         INTEGER NOT NULL DEFAULT 0,
	refresh_hash    BLOB,                   -- with the version: identifies a parent
	parent_hash     BLOB,                   -- refresh_hash of the previous version
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

-- Each column is encrypted with its own associated data.
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

// schema2 adds the history, connect links and consents, and the outbox.
const schema2 = `
-- The status and reason of the credential: those of the connection unless it is disabled.
ALTER TABLE connections ADD COLUMN own_status TEXT NOT NULL DEFAULT '';
ALTER TABLE connections ADD COLUMN own_reason TEXT NOT NULL DEFAULT '';
-- 1 from an event reauthorization_required to the next event recovered.
ALTER TABLE connections ADD COLUMN alarmed INTEGER NOT NULL DEFAULT 0;
-- 1 while the credential may be another company's.
ALTER TABLE connections ADD COLUMN unproven INTEGER NOT NULL DEFAULT 0;
ALTER TABLE connections ADD COLUMN next_expires_at INTEGER; -- of the staged key
-- The shortest time before the expiry of the key at which an event was recorded.
ALTER TABLE connections ADD COLUMN reminded_within INTEGER;

UPDATE connections SET
	own_status = CASE
		WHEN status <> 'disabled' THEN status
		WHEN version = 0 THEN 'pending'
		WHEN refused_at IS NOT NULL THEN 'reauthorization_required'
		ELSE 'active' END,
	own_reason = CASE
		WHEN status <> 'disabled' THEN reason
		WHEN version = 0 THEN 'no_credential'
		WHEN refused_at IS NOT NULL THEN 'refresh_refused'
		ELSE '' END,
	alarmed = CASE WHEN status = 'reauthorization_required' THEN 1 ELSE 0 END;

-- A connection without a credential may be a parent too, with the empty token.
UPDATE connections SET refresh_hash = x'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
	WHERE refresh_hash IS NULL;

CREATE INDEX connections_kind ON connections (kind, name);
-- All columns that a search reads, so that it need not read the table.
CREATE INDEX connections_search ON connections (name, status, kind, search);
CREATE INDEX connections_expiring ON connections (expires_at) WHERE kind <> 'oauth' AND expires_at IS NOT NULL;

-- The history; number only grows. The events of a removed connection stay.
CREATE TABLE events (
	number        INTEGER PRIMARY KEY,
	id            TEXT NOT NULL,
	connection_id TEXT NOT NULL,
	connection    TEXT NOT NULL,    -- its name at that time
	frequent      INTEGER NOT NULL, -- 1: limited separately
	type          TEXT NOT NULL,
	at            INTEGER NOT NULL,
	actor         TEXT NOT NULL,
	status        TEXT NOT NULL,
	reason        TEXT NOT NULL,
	version       INTEGER NOT NULL,
	code          TEXT NOT NULL,
	message       TEXT NOT NULL
) STRICT;

CREATE INDEX events_connection ON events (connection_id, frequent, number);

CREATE TABLE subscriptions (
	name  TEXT NOT NULL,
	type  TEXT NOT NULL,
	delay INTEGER NOT NULL, -- milliseconds
	PRIMARY KEY (name, type)
) STRICT;

-- A claimed delivery is due again when the claim ends.
CREATE TABLE deliveries (
	number        INTEGER PRIMARY KEY AUTOINCREMENT,
	subscription  TEXT NOT NULL,
	event         INTEGER NOT NULL REFERENCES events (number) ON DELETE CASCADE,
	connection_id TEXT NOT NULL,
	connection    TEXT NOT NULL,    -- as it was right after the event, in JSON
	due_at        INTEGER NOT NULL,
	attempts      INTEGER NOT NULL DEFAULT 0,
	owner         TEXT NOT NULL DEFAULT '',
	last_error    TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE INDEX deliveries_due ON deliveries (subscription, due_at);
CREATE INDEX deliveries_order ON deliveries (connection_id, subscription, number);
CREATE INDEX deliveries_event ON deliveries (event);

CREATE TABLE links (
	token_hash     BLOB PRIMARY KEY,
	connection     INTEGER NOT NULL REFERENCES connections (number) ON DELETE CASCADE,
	token          BLOB,             -- encrypted; NULL once the link has ended
	created_at     INTEGER NOT NULL,
	expires_at     INTEGER NOT NULL,
	used_at        INTEGER,
	return_url     TEXT NOT NULL,
	other_company  INTEGER NOT NULL, -- 1: allowed
	shared_company INTEGER NOT NULL  -- 1: allowed
) STRICT;

CREATE INDEX links_connection ON links (connection, created_at);
CREATE INDEX links_expires ON links (expires_at);
CREATE INDEX links_open ON links (expires_at) WHERE token IS NOT NULL;

-- Attempts to give consent, between the request and the callback.
CREATE TABLE consents (
	state_hash   BLOB PRIMARY KEY,
	connection   INTEGER NOT NULL REFERENCES connections (number) ON DELETE CASCADE,
	link         BLOB NOT NULL, -- encrypted
	verifier     BLOB NOT NULL, -- encrypted
	browser      BLOB NOT NULL,
	redirect_uri TEXT NOT NULL,
	expires_at   INTEGER NOT NULL
) STRICT;

CREATE INDEX consents_connection ON consents (connection, expires_at);
CREATE INDEX consents_expires ON consents (expires_at);
`

// schema3 adds an index to find removed connections by name.
const schema3 = `
CREATE INDEX events_removed ON events (connection, number) WHERE type = 'connection.removed';
`

// schema4 converts reasons, codes and event types to their current names. A
// delivery holds its connection in JSON, where quotation marks within a value are
// escaped: the patterns match members only.
const schema4 = `
CREATE TABLE renamed (
	former  TEXT PRIMARY KEY,
	present TEXT NOT NULL
) STRICT;

INSERT INTO renamed (former, present) VALUES
	('refresh_refused', 'refresh_token_rejected'),
	('refresh_token_refused', 'refresh_token_rejected'),
	('refresh_answer_unusual', 'unexpected_response'),
	('oauth_client_refused', 'oauth_client_rejected'),
	('key_refused', 'key_rejected'),
	('mass_refusal', 'circuit_breaker_open'),
	('answer_of_another_server', 'wrong_issuer'),
	('consent_refused', 'consent_failed'),
	('company_not_told', 'company_unknown'),
	('key_misshapen', 'key_malformed'),
	('bad_date', 'invalid_date');

UPDATE connections SET reason = (SELECT present FROM renamed WHERE former = reason)
	WHERE reason IN (SELECT former FROM renamed);
UPDATE connections SET own_reason = (SELECT present FROM renamed WHERE former = own_reason)
	WHERE own_reason IN (SELECT former FROM renamed);
UPDATE connections SET error_code = (SELECT present FROM renamed WHERE former = error_code)
	WHERE error_code IN (SELECT former FROM renamed);
UPDATE events SET reason = (SELECT present FROM renamed WHERE former = reason)
	WHERE reason IN (SELECT former FROM renamed);
UPDATE events SET code = (SELECT present FROM renamed WHERE former = code)
	WHERE code IN (SELECT former FROM renamed);
UPDATE events SET type = 'connection.link_created' WHERE type = 'connection.link_made';

UPDATE deliveries SET connection = replace(connection, '"Unproven":', '"CompanyUnverified":');
UPDATE deliveries SET connection = coalesce((
	SELECT replace(connection, '"Reason":"' || former || '"', '"Reason":"' || present || '"')
	FROM renamed WHERE connection LIKE '%"Reason":"' || former || '"%'), connection);
UPDATE deliveries SET connection = coalesce((
	SELECT replace(connection, '"Code":"' || former || '"', '"Code":"' || present || '"')
	FROM renamed WHERE connection LIKE '%"Code":"' || former || '"%'), connection);

DROP TABLE renamed;
`
