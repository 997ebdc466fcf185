-- Sums that every report is answered from, by hour and by day, and what was told of providers, alerts and quotas; docs/ledger.md.

-- What sums are kept of. A slice says which of the columns count, the others are ''; '' stands for unknown, too.
CREATE TABLE usage_slices (
    slice INTEGER PRIMARY KEY,
    provider INTEGER NOT NULL,
    upstream_model INTEGER NOT NULL,
    chain INTEGER NOT NULL,
    client INTEGER NOT NULL,
    department INTEGER NOT NULL,
    agent INTEGER NOT NULL,
    task INTEGER NOT NULL,
    key INTEGER NOT NULL,
    stream INTEGER NOT NULL
);
INSERT INTO usage_slices VALUES
    (0, 1, 1, 1, 1, 1, 1, 1, 1, 1),
    (1, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    (2, 1, 0, 0, 0, 0, 0, 0, 0, 0),
    (3, 1, 1, 0, 0, 0, 0, 0, 0, 0),
    (4, 1, 0, 0, 0, 0, 0, 0, 1, 0),
    (5, 1, 1, 1, 0, 0, 0, 0, 0, 0),
    (6, 0, 0, 0, 1, 0, 0, 0, 0, 0),
    (7, 0, 0, 0, 0, 1, 0, 0, 0, 0),
    (8, 0, 0, 0, 0, 0, 1, 0, 0, 0),
    (9, 0, 0, 0, 0, 0, 0, 1, 0, 0);

CREATE TABLE usage_tags (
    id INTEGER PRIMARY KEY,
    slice INTEGER NOT NULL,
    provider TEXT NOT NULL,
    upstream_model TEXT NOT NULL,
    chain TEXT NOT NULL,
    client TEXT NOT NULL,
    department TEXT NOT NULL,
    agent TEXT NOT NULL,
    task TEXT NOT NULL,
    key TEXT NOT NULL,                 -- the credential's fingerprint
    stream INTEGER NOT NULL,
    UNIQUE (slice, provider, upstream_model, chain, client, department, agent, task, key, stream)
);

-- Changed only in the transaction that moves a row to its end, by what that row says. By slice first: what a report reads lies together.
CREATE TABLE hourly_sums (
    slice INTEGER NOT NULL,
    hour INTEGER NOT NULL,                   -- hours since 1970 (UTC)
    tag INTEGER NOT NULL,
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
    cost_nusd INTEGER NOT NULL,
    at_risk_tokens INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,               -- attempts that consumed tokens at an unknown price
    estimated INTEGER NOT NULL,              -- attempts whose usage is not the provider's own figure
    durations TEXT NOT NULL,                 -- of requests that went well: a histogram, see proxy/storage/histogram.py
    first_token_times TEXT NOT NULL,         -- another
    PRIMARY KEY (slice, hour, tag)
) WITHOUT ROWID;

CREATE TABLE daily_sums (
    slice INTEGER NOT NULL,
    day INTEGER NOT NULL,                    -- days since 1970 (UTC); the rest as by the hour
    tag INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    requests_ok INTEGER NOT NULL,
    requests_failed INTEGER NOT NULL,
    requests_rejected INTEGER NOT NULL,
    requests_interrupted INTEGER NOT NULL,
    requests_client_gone INTEGER NOT NULL,
    requests_failed_over INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    first_token_us INTEGER NOT NULL,
    first_tokens INTEGER NOT NULL,
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
    cost_nusd INTEGER NOT NULL,
    at_risk_tokens INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    durations TEXT NOT NULL,
    first_token_times TEXT NOT NULL,
    PRIMARY KEY (slice, day, tag)
) WITHOUT ROWID;

-- The combinations' sums of days that are over, moved here with each by itself: a report that filters reads what it wants and no more.
-- What comes late for such a day begins in daily_sums and is added here, so both are to be summed up.
CREATE TABLE past_daily_sums (
    tag INTEGER NOT NULL,
    day INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    requests_ok INTEGER NOT NULL,
    requests_failed INTEGER NOT NULL,
    requests_rejected INTEGER NOT NULL,
    requests_interrupted INTEGER NOT NULL,
    requests_client_gone INTEGER NOT NULL,
    requests_failed_over INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    first_token_us INTEGER NOT NULL,
    first_tokens INTEGER NOT NULL,
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
    cost_nusd INTEGER NOT NULL,
    at_risk_tokens INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    durations TEXT NOT NULL,
    first_token_times TEXT NOT NULL,
    PRIMARY KEY (tag, day)
) WITHOUT ROWID;

-- Times that a request went on from one target to another, and why.
CREATE TABLE failovers_hourly (
    hour INTEGER NOT NULL,
    chain TEXT NOT NULL,
    from_target TEXT NOT NULL,               -- provider/model
    to_target TEXT NOT NULL,
    reason TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (hour, chain, from_target, to_target, reason)
) WITHOUT ROWID;

-- What was told of a provider when it was checked, and for how long it was told the same.
CREATE TABLE checks (
    provider TEXT NOT NULL,
    time_ms INTEGER NOT NULL,
    state TEXT NOT NULL,                     -- healthy, degraded, down, unknown
    reason TEXT,
    response_ms REAL,                        -- NULL: no answer
    models INTEGER,
    key_valid INTEGER,                       -- NULL: it cannot be told
    PRIMARY KEY (provider, time_ms)
) WITHOUT ROWID;
CREATE INDEX checks_by_time ON checks (time_ms);

CREATE TABLE health_spans (
    provider TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    until_ms INTEGER NOT NULL,               -- of the last check that said so, or of the next that said otherwise
    state TEXT NOT NULL,
    PRIMARY KEY (provider, since_ms)
) WITHOUT ROWID;

CREATE TABLE alerts (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT,                               -- NULL while only its end is known
    subject TEXT,
    severity TEXT,
    message TEXT,
    value REAL,
    threshold REAL,
    raised_ms INTEGER,
    said_ms INTEGER,                         -- when it was last raised: again, with another severity
    acknowledged_ms INTEGER,
    resolved_ms INTEGER
) WITHOUT ROWID;
CREATE INDEX alerts_by_time ON alerts (raised_ms);
CREATE INDEX alerts_open ON alerts (raised_ms) WHERE resolved_ms IS NULL;

CREATE TABLE quota_resets (
    provider TEXT NOT NULL,
    credential TEXT NOT NULL,                -- '': all of the provider's
    time_ms INTEGER NOT NULL,
    PRIMARY KEY (provider, credential)
) WITHOUT ROWID;

-- Until here no row was ever deleted: so the sums can be made anew from the rows, with all that they did not have before.
DROP TABLE usage_hourly;

CREATE TEMP TABLE bins (bound REAL PRIMARY KEY, digit TEXT);
INSERT INTO bins
WITH RECURSIVE bin(number, bound) AS (SELECT 1, 0.5 UNION ALL SELECT number + 1, bound * 1.17 FROM bin WHERE number < 95)
SELECT -1, char(32) UNION ALL SELECT bound, char(32 + number) FROM bin;

CREATE TEMP TABLE ended AS
SELECT r.id, r.time_ms / 3600000 AS hour, coalesce(f.provider, '') AS provider, coalesce(k.upstream_model, '') AS upstream_model,
    coalesce(k.chain, '') AS chain, coalesce(f.client, '') AS client, coalesce(f.department, '') AS department,
    coalesce(k.agent, '') AS agent, coalesce(k.task, '') AS task,
    coalesce((SELECT ak.credential FROM attempt_rows AS a JOIN attempt_kinds AS ak ON ak.id = a.kind
        WHERE a.request_id = r.id ORDER BY a.n DESC LIMIT 1), '') AS key,
    coalesce(k.stream, 0) AS stream, f.outcome, r.attempts, r.duration_ms, r.first_token_ms
FROM request_rows AS r JOIN facets AS f ON f.id = r.facet JOIN request_kinds AS k ON k.id = r.kind WHERE r.ended = 1;

CREATE TEMP TABLE settled AS
SELECT a.time_ms / 3600000 AS hour, k.provider, k.upstream_model, coalesce(q.chain, '') AS chain, coalesce(f.client, '') AS client,
    coalesce(f.department, '') AS department, coalesce(q.agent, '') AS agent, coalesce(q.task, '') AS task,
    coalesce(k.credential, '') AS key, coalesce(q.stream, 0) AS stream, k.outcome, k.usage_source, a.*
FROM attempt_rows AS a JOIN attempt_kinds AS k ON k.id = a.kind LEFT JOIN request_rows AS r ON r.id = a.request_id
LEFT JOIN facets AS f ON f.id = r.facet LEFT JOIN request_kinds AS q ON q.id = r.kind WHERE a.rank = 2;

INSERT INTO usage_tags (slice, provider, upstream_model, chain, client, department, agent, task, key, stream)
SELECT DISTINCT 0, provider, upstream_model, chain, client, department, agent, task, key, stream FROM ended UNION
SELECT DISTINCT 0, provider, upstream_model, chain, client, department, agent, task, key, stream FROM settled;

CREATE TEMP TABLE slice_of AS
SELECT s.slice, t.id AS whole, iif(s.provider, t.provider, '') AS provider, iif(s.upstream_model, t.upstream_model, '') AS upstream_model,
    iif(s.chain, t.chain, '') AS chain, iif(s.client, t.client, '') AS client, iif(s.department, t.department, '') AS department,
    iif(s.agent, t.agent, '') AS agent, iif(s.task, t.task, '') AS task, iif(s.key, t.key, '') AS key, iif(s.stream, t.stream, 0) AS stream
FROM usage_slices AS s CROSS JOIN usage_tags AS t WHERE s.slice > 0;
INSERT OR IGNORE INTO usage_tags (slice, provider, upstream_model, chain, client, department, agent, task, key, stream)
SELECT slice, provider, upstream_model, chain, client, department, agent, task, key, stream FROM slice_of;
CREATE TEMP TABLE part_of (whole INTEGER, slice INTEGER, tag INTEGER, PRIMARY KEY (whole, slice)) WITHOUT ROWID;
INSERT INTO part_of SELECT s.whole, s.slice, t.id FROM slice_of AS s JOIN usage_tags AS t ON t.slice = s.slice
    AND t.provider = s.provider AND t.upstream_model = s.upstream_model AND t.chain = s.chain AND t.client = s.client
    AND t.department = s.department AND t.agent = s.agent AND t.task = s.task AND t.key = s.key AND t.stream = s.stream;

INSERT INTO hourly_sums
SELECT 0, hour, tag, sum(requests), sum(ok), sum(failed), sum(rejected), sum(interrupted), sum(client_gone), sum(failed_over),
    sum(duration_us), sum(first_token_us), sum(first_tokens), sum(attempts), sum(attempts_ok), sum(attempt_duration_us),
    sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens), sum(reasoning_tokens),
    sum(input_audio_tokens), sum(output_audio_tokens), sum(cost_nusd), sum(at_risk_tokens), sum(unpriced), sum(estimated),
    group_concat(durations, ''), group_concat(first_token_times, '')
FROM (
    SELECT e.hour, t.id AS tag, 1 AS requests, outcome = 'ok' AS ok,
        outcome NOT IN ('ok', 'rejected', 'interrupted', 'client_gone') AS failed, outcome = 'rejected' AS rejected,
        outcome = 'interrupted' AS interrupted, outcome = 'client_gone' AS client_gone, attempts > 1 AS failed_over,
        coalesce(CAST(duration_ms * 1000 AS INTEGER), 0) AS duration_us,
        coalesce(CAST(first_token_ms * 1000 AS INTEGER), 0) AS first_token_us, first_token_ms IS NOT NULL AS first_tokens,
        0 AS attempts, 0 AS attempts_ok, 0 AS attempt_duration_us, 0 AS input_tokens, 0 AS cached_input_tokens,
        0 AS cache_write_tokens, 0 AS output_tokens, 0 AS reasoning_tokens, 0 AS input_audio_tokens, 0 AS output_audio_tokens,
        0 AS cost_nusd, 0 AS at_risk_tokens, 0 AS unpriced, 0 AS estimated,
        coalesce(iif(outcome = 'ok', (SELECT digit FROM bins WHERE bound <= duration_ms ORDER BY bound DESC LIMIT 1), ''), '') AS durations,
        coalesce((SELECT digit FROM bins WHERE bound <= first_token_ms ORDER BY bound DESC LIMIT 1), '') AS first_token_times
    FROM ended AS e JOIN usage_tags AS t ON t.slice = 0 AND t.provider = e.provider AND t.upstream_model = e.upstream_model
        AND t.chain = e.chain AND t.client = e.client AND t.department = e.department AND t.agent = e.agent AND t.task = e.task
        AND t.key = e.key AND t.stream = e.stream
    UNION ALL
    SELECT s.hour, t.id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, outcome = 'ok', coalesce(CAST(duration_ms * 1000 AS INTEGER), 0),
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, input_audio_tokens,
        output_audio_tokens, coalesce(cost_nusd, 0), at_risk_tokens, usage_source IS NOT NULL AND cost_nusd IS NULL,
        coalesce(usage_source <> 'provider', 0), '', ''
    FROM settled AS s JOIN usage_tags AS t ON t.slice = 0 AND t.provider = s.provider AND t.upstream_model = s.upstream_model
        AND t.chain = s.chain AND t.client = s.client AND t.department = s.department AND t.agent = s.agent AND t.task = s.task
        AND t.key = s.key AND t.stream = s.stream
) GROUP BY hour, tag;

INSERT INTO daily_sums
SELECT 0, hour / 24, tag, sum(requests), sum(requests_ok), sum(requests_failed), sum(requests_rejected), sum(requests_interrupted),
    sum(requests_client_gone), sum(requests_failed_over), sum(duration_us), sum(first_token_us), sum(first_tokens), sum(attempts),
    sum(attempts_ok), sum(attempt_duration_us), sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens),
    sum(output_tokens), sum(reasoning_tokens), sum(input_audio_tokens), sum(output_audio_tokens), sum(cost_nusd),
    sum(at_risk_tokens), sum(unpriced), sum(estimated), group_concat(durations, ''),
    group_concat(first_token_times, '')
FROM hourly_sums WHERE slice = 0 GROUP BY hour / 24, tag;

INSERT INTO hourly_sums
SELECT p.slice, u.hour, p.tag, sum(requests), sum(requests_ok), sum(requests_failed), sum(requests_rejected),
    sum(requests_interrupted), sum(requests_client_gone), sum(requests_failed_over), sum(duration_us), sum(first_token_us),
    sum(first_tokens), sum(attempts), sum(attempts_ok), sum(attempt_duration_us), sum(input_tokens), sum(cached_input_tokens),
    sum(cache_write_tokens), sum(output_tokens), sum(reasoning_tokens), sum(input_audio_tokens), sum(output_audio_tokens),
    sum(cost_nusd), sum(at_risk_tokens), sum(unpriced), sum(estimated), group_concat(durations, ''),
    group_concat(first_token_times, '')
FROM hourly_sums AS u JOIN part_of AS p ON p.whole = u.tag WHERE u.slice = 0 GROUP BY p.slice, u.hour, p.tag;

INSERT INTO daily_sums
SELECT p.slice, u.day, p.tag, sum(requests), sum(requests_ok), sum(requests_failed), sum(requests_rejected),
    sum(requests_interrupted), sum(requests_client_gone), sum(requests_failed_over), sum(duration_us), sum(first_token_us),
    sum(first_tokens), sum(attempts), sum(attempts_ok), sum(attempt_duration_us), sum(input_tokens), sum(cached_input_tokens),
    sum(cache_write_tokens), sum(output_tokens), sum(reasoning_tokens), sum(input_audio_tokens), sum(output_audio_tokens),
    sum(cost_nusd), sum(at_risk_tokens), sum(unpriced), sum(estimated), group_concat(durations, ''),
    group_concat(first_token_times, '')
FROM daily_sums AS u JOIN part_of AS p ON p.whole = u.tag WHERE u.slice = 0 GROUP BY p.slice, u.day, p.tag;

UPDATE hourly_sums SET durations = shorten(durations), first_token_times = shorten(first_token_times) WHERE first_tokens > 40;
UPDATE daily_sums SET durations = shorten(durations), first_token_times = shorten(first_token_times) WHERE first_tokens > 40;

INSERT INTO past_daily_sums
SELECT tag, day, requests, requests_ok, requests_failed, requests_rejected, requests_interrupted, requests_client_gone,
    requests_failed_over, duration_us, first_token_us, first_tokens, attempts, attempts_ok, attempt_duration_us, input_tokens,
    cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, input_audio_tokens, output_audio_tokens, cost_nusd,
    at_risk_tokens, unpriced, estimated, durations, first_token_times
FROM daily_sums WHERE slice = 0 AND day < (SELECT max(day) FROM daily_sums WHERE slice = 1);
DELETE FROM daily_sums WHERE slice = 0 AND day < (SELECT max(day) FROM daily_sums WHERE slice = 1);

INSERT INTO failovers_hourly
SELECT r.time_ms / 3600000, coalesce(k.chain, ''), json_extract(e.value, '$.target'),
    coalesce((SELECT json_extract(n.value, '$.target') FROM json_each(k.trace) AS n
        WHERE json_extract(n.value, '$.attempt') = json_extract(e.value, '$.attempt') + 1 AND json_extract(n.value, '$.then') IS NOT NULL
        LIMIT 1), f.provider || '/' || k.upstream_model),
    coalesce(json_extract(e.value, '$.error'), ''), count(*)
FROM request_rows AS r JOIN facets AS f ON f.id = r.facet JOIN request_kinds AS k ON k.id = r.kind
CROSS JOIN json_each(k.trace) AS e
WHERE r.ended = 1 AND r.attempts > 1 AND json_extract(e.value, '$.then') = 'next' AND json_extract(e.value, '$.attempt') < r.attempts
    AND f.provider IS NOT NULL
GROUP BY 1, 2, 3, 4, 5;

DROP TABLE temp.bins;
DROP TABLE temp.ended;
DROP TABLE temp.settled;
DROP TABLE temp.slice_of;
DROP TABLE temp.part_of;

-- For whoever reads the file: the sums of each combination. Reports of one thing at a time read its slice instead.
CREATE VIEW usage_hourly AS
SELECT hour, provider, upstream_model, chain, client, department, agent, task, key, stream, requests, requests_ok, requests_failed,
    requests_rejected, requests_interrupted, requests_client_gone, requests_failed_over, duration_us, first_token_us, first_tokens,
    attempts, attempts_ok, attempt_duration_us, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
    reasoning_tokens, input_audio_tokens, output_audio_tokens, at_risk_tokens, cost_nusd, unpriced, estimated
FROM hourly_sums AS u JOIN usage_tags AS t ON t.id = u.tag WHERE u.slice = 0;

CREATE VIEW usage_daily AS
SELECT day, provider, upstream_model, chain, client, department, agent, task, key, stream, sum(requests) AS requests,
    sum(requests_ok) AS requests_ok, sum(requests_failed) AS requests_failed, sum(requests_rejected) AS requests_rejected,
    sum(requests_interrupted) AS requests_interrupted, sum(requests_client_gone) AS requests_client_gone,
    sum(requests_failed_over) AS requests_failed_over, sum(duration_us) AS duration_us, sum(first_token_us) AS first_token_us,
    sum(first_tokens) AS first_tokens, sum(attempts) AS attempts, sum(attempts_ok) AS attempts_ok, sum(attempt_duration_us) AS
    attempt_duration_us, sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
    sum(cache_write_tokens) AS cache_write_tokens, sum(output_tokens) AS output_tokens, sum(reasoning_tokens) AS reasoning_tokens,
    sum(input_audio_tokens) AS input_audio_tokens, sum(output_audio_tokens) AS output_audio_tokens, sum(cost_nusd) AS cost_nusd,
    sum(at_risk_tokens) AS at_risk_tokens, sum(unpriced) AS unpriced, sum(estimated) AS estimated
FROM (
    SELECT tag, day, requests, requests_ok, requests_failed, requests_rejected, requests_interrupted, requests_client_gone,
        requests_failed_over, duration_us, first_token_us, first_tokens, attempts, attempts_ok, attempt_duration_us, input_tokens,
        cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, input_audio_tokens, output_audio_tokens, cost_nusd,
        at_risk_tokens, unpriced, estimated
    FROM daily_sums WHERE slice = 0 UNION ALL
    SELECT tag, day, requests, requests_ok, requests_failed, requests_rejected, requests_interrupted, requests_client_gone,
        requests_failed_over, duration_us, first_token_us, first_tokens, attempts, attempts_ok, attempt_duration_us, input_tokens,
        cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, input_audio_tokens, output_audio_tokens, cost_nusd,
        at_risk_tokens, unpriced, estimated
    FROM past_daily_sums
) AS u JOIN usage_tags AS t ON t.id = u.tag GROUP BY day, tag;
