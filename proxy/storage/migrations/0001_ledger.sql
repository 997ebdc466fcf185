-- Rows of the ledger, the sums over them, and how far each journal segment has been taken in; docs/ledger.md explains.
-- Times are milliseconds since 1970 (UTC), durations milliseconds, money integer nano-dollars. NULL is unknown, never 0.
-- What many rows have in common is written once, in the tables of facets and kinds; `key` is a digest of what they say.

-- What lists are filtered by. One index over (facet, id) serves every filter and every combination of them.
CREATE TABLE facets (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    client TEXT,
    department TEXT,
    model TEXT,
    provider TEXT,                     -- of the last attempt, which is the one that answered if any did
    outcome TEXT NOT NULL
);

CREATE TABLE request_kinds (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    agent TEXT,
    task TEXT,
    chain TEXT,
    stream INTEGER,
    config TEXT,
    upstream_model TEXT,
    http_status INTEGER,
    finish_reason TEXT,
    error_code TEXT,
    trace TEXT,                        -- JSON
    dropped TEXT                       -- JSON
);

CREATE TABLE request_rows (
    id TEXT NOT NULL PRIMARY KEY,
    facet INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,
    task_id TEXT,
    attempts INTEGER NOT NULL,
    duration_ms REAL,
    first_token_ms REAL,
    overhead_ms REAL,
    writer TEXT,                       -- whose journal it came from, while it runs
    ended INTEGER NOT NULL             -- 0 while it runs; an ended row never changes again
) WITHOUT ROWID;

CREATE INDEX request_rows_by_facet ON request_rows (facet, id);
CREATE INDEX request_rows_running ON request_rows (writer) WHERE ended = 0;

CREATE VIEW requests AS
SELECT r.id, ended, time_ms, client, department, agent, task, task_id, model, chain, stream, config, provider, upstream_model,
    outcome, http_status, attempts, duration_ms, first_token_ms, overhead_ms, finish_reason, error_code, trace, dropped, writer
FROM request_rows AS r LEFT JOIN facets AS f ON f.id = r.facet LEFT JOIN request_kinds AS k ON k.id = r.kind;

CREATE TABLE attempt_kinds (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    provider TEXT NOT NULL,
    upstream_model TEXT NOT NULL,
    credential TEXT,
    outcome TEXT NOT NULL,
    http_status INTEGER,
    error_class TEXT,
    category TEXT,
    usage_source TEXT,                 -- NULL: nothing was consumed
    price_source TEXT,
    finish_reason TEXT
);

CREATE TABLE attempt_rows (
    request_id TEXT NOT NULL,
    n INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,
    error TEXT,
    first_token_ms REAL,
    duration_ms REAL,
    input_tokens INTEGER NOT NULL,
    cached_input_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    input_audio_tokens INTEGER NOT NULL,
    output_audio_tokens INTEGER NOT NULL,
    cost_nusd INTEGER,                 -- NULL: no price is known
    at_risk_tokens INTEGER NOT NULL,
    writer TEXT,
    rank INTEGER NOT NULL,             -- 0 begun, 1 progress known, 2 ended; a row only ever moves up
    PRIMARY KEY (request_id, n)
) WITHOUT ROWID;

CREATE INDEX attempt_rows_running ON attempt_rows (writer) WHERE rank < 2;

CREATE VIEW attempts AS
SELECT request_id, n, rank, time_ms, provider, upstream_model, credential, outcome, http_status, error_class, category, error,
    first_token_ms, duration_ms, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
    input_audio_tokens, output_audio_tokens, usage_source, cost_nusd, price_source, at_risk_tokens, finish_reason, writer
FROM attempt_rows AS a LEFT JOIN attempt_kinds AS k ON k.id = a.kind;

-- Changed only in the transaction that moves a row to its end, by what that row says. '' stands for NULL.
CREATE TABLE usage_hourly (
    hour INTEGER NOT NULL,             -- hours since 1970 (UTC)
    provider TEXT NOT NULL,
    upstream_model TEXT NOT NULL,
    chain TEXT NOT NULL,
    client TEXT NOT NULL,
    department TEXT NOT NULL,
    agent TEXT NOT NULL,
    task TEXT NOT NULL,
    stream INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    requests_ok INTEGER NOT NULL,
    requests_failed INTEGER NOT NULL,
    requests_rejected INTEGER NOT NULL,
    requests_interrupted INTEGER NOT NULL,
    requests_client_gone INTEGER NOT NULL,
    requests_failed_over INTEGER NOT NULL,   -- took more than one attempt
    duration_us INTEGER NOT NULL,            -- of requests
    first_token_us INTEGER NOT NULL,
    first_tokens INTEGER NOT NULL,           -- requests that had a first token
    attempts INTEGER NOT NULL,
    attempts_ok INTEGER NOT NULL,
    attempt_duration_us INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cached_input_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    input_audio_tokens INTEGER NOT NULL,
    output_audio_tokens INTEGER NOT NULL,
    at_risk_tokens INTEGER NOT NULL,
    cost_nusd INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,               -- attempts that consumed tokens at an unknown price
    estimated INTEGER NOT NULL,              -- attempts whose usage is not the provider's own figure
    PRIMARY KEY (hour, provider, upstream_model, chain, client, department, agent, task, stream)
) WITHOUT ROWID;

CREATE INDEX usage_hourly_by_client ON usage_hourly (client, hour);

CREATE TABLE segments (
    name TEXT NOT NULL PRIMARY KEY,
    position INTEGER NOT NULL,
    finished INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE counters (
    name TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
