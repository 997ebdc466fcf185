-- Rows of the ledger, the sums over them, and how far each journal segment has been taken in; docs/ledger.md explains.
-- Times are milliseconds since 1970 (UTC), durations milliseconds, money integer nano-dollars. NULL is unknown, never 0.

CREATE TABLE requests (
    id TEXT NOT NULL PRIMARY KEY,
    ended INTEGER NOT NULL,            -- 0 while it runs; an ended row never changes again
    time_ms INTEGER NOT NULL,
    client TEXT,
    department TEXT,
    agent TEXT,
    task TEXT,
    task_id TEXT,
    model TEXT,
    chain TEXT,
    stream INTEGER,
    config TEXT,
    provider TEXT,                     -- of the last attempt, which is the one that answered if any did
    upstream_model TEXT,
    outcome TEXT NOT NULL,
    http_status INTEGER,
    attempts INTEGER NOT NULL,
    duration_ms REAL,
    first_token_ms REAL,
    overhead_ms REAL,
    finish_reason TEXT,
    error_code TEXT,
    trace TEXT,                        -- JSON
    dropped TEXT,                      -- JSON
    writer TEXT                        -- whose journal it came from, while it runs
) WITHOUT ROWID;

CREATE INDEX requests_by_model ON requests (model, id);
CREATE INDEX requests_by_provider ON requests (provider, id) WHERE provider IS NOT NULL;
CREATE INDEX requests_by_client ON requests (client, id) WHERE client IS NOT NULL;
CREATE INDEX requests_by_department ON requests (department, id) WHERE department IS NOT NULL;
CREATE INDEX requests_by_outcome ON requests (outcome, id) WHERE outcome <> 'ok';
CREATE INDEX requests_running ON requests (writer) WHERE ended = 0;

CREATE TABLE attempts (
    request_id TEXT NOT NULL,
    n INTEGER NOT NULL,
    rank INTEGER NOT NULL,             -- 0 begun, 1 progress known, 2 ended; a row only ever moves up
    time_ms INTEGER NOT NULL,
    provider TEXT NOT NULL,
    upstream_model TEXT NOT NULL,
    credential TEXT,
    outcome TEXT NOT NULL,
    http_status INTEGER,
    error_class TEXT,
    category TEXT,
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
    usage_source TEXT,                 -- NULL: nothing was consumed
    cost_nusd INTEGER,                 -- NULL: no price is known
    price_source TEXT,
    at_risk_tokens INTEGER NOT NULL,
    finish_reason TEXT,
    writer TEXT,
    PRIMARY KEY (request_id, n)
) WITHOUT ROWID;

CREATE INDEX attempts_running ON attempts (writer) WHERE rank < 2;

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
