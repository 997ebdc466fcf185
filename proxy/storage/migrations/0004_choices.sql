-- What was chosen, and what came of it besides an answer: scores, cached answers, quality, hedges, continuations; docs/ledger.md.

-- Only of requests that have something to say here; a trace that no other request can have is here and not with a kind.
CREATE TABLE request_extras (
    id TEXT NOT NULL PRIMARY KEY,
    trace TEXT,                        -- JSON
    answered INTEGER,                  -- the attempt that answered, where it is not the last; NULL: the last
    cache TEXT,                        -- hit, …; NULL: the cache had no part in it
    saved_nusd INTEGER,                -- what a cached answer would have cost; NULL: not cached, or no price was known
    quality REAL,                      -- 0..1, of the answer given; NULL: not measured
    hedged INTEGER,                    -- 1: a second target was asked before the first had answered
    continued TEXT,                    -- JSON: the attempts that went on with what another had begun
    asked TEXT,                        -- JSON: what the choice was made from
    cached TEXT                        -- JSON: whose answer it was, of which request, and its tokens
) WITHOUT ROWID;

-- JSON: what requests that needed the same were asked for, on a chain in its own order.
ALTER TABLE request_kinds ADD COLUMN asked TEXT;

DROP VIEW requests;
CREATE VIEW requests AS
SELECT r.id, ended, time_ms, client, department, agent, task, task_id, model, chain, stream, config, provider, upstream_model,
    outcome, http_status, attempts, duration_ms, first_token_ms, overhead_ms, finish_reason, error_code,
    coalesce(x.trace, k.trace) AS trace, dropped, writer, answered, cache, saved_nusd, quality, coalesce(hedged, 0) AS hedged,
    continued, coalesce(x.asked, k.asked) AS asked, cached
FROM request_rows AS r LEFT JOIN facets AS f ON f.id = r.facet LEFT JOIN request_kinds AS k ON k.id = r.kind
LEFT JOIN request_extras AS x ON x.id = r.id;

ALTER TABLE hourly_sums ADD COLUMN cache_hits INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hourly_sums ADD COLUMN saved_nusd INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hourly_sums ADD COLUMN rated INTEGER NOT NULL DEFAULT 0;          -- requests whose answer's quality was measured
ALTER TABLE hourly_sums ADD COLUMN quality_ppm INTEGER NOT NULL DEFAULT 0;    -- of these, in millionths

ALTER TABLE daily_sums ADD COLUMN cache_hits INTEGER NOT NULL DEFAULT 0;
ALTER TABLE daily_sums ADD COLUMN saved_nusd INTEGER NOT NULL DEFAULT 0;
ALTER TABLE daily_sums ADD COLUMN rated INTEGER NOT NULL DEFAULT 0;
ALTER TABLE daily_sums ADD COLUMN quality_ppm INTEGER NOT NULL DEFAULT 0;

ALTER TABLE past_daily_sums ADD COLUMN cache_hits INTEGER NOT NULL DEFAULT 0;
ALTER TABLE past_daily_sums ADD COLUMN saved_nusd INTEGER NOT NULL DEFAULT 0;
ALTER TABLE past_daily_sums ADD COLUMN rated INTEGER NOT NULL DEFAULT 0;
ALTER TABLE past_daily_sums ADD COLUMN quality_ppm INTEGER NOT NULL DEFAULT 0;

DROP VIEW usage_hourly;
CREATE VIEW usage_hourly AS
SELECT hour, provider, upstream_model, chain, client, department, agent, task, key, stream, requests, requests_ok, requests_failed,
    requests_rejected, requests_interrupted, requests_client_gone, requests_failed_over, duration_us, first_token_us, first_tokens,
    attempts, attempts_ok, attempt_duration_us, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
    reasoning_tokens, input_audio_tokens, output_audio_tokens, at_risk_tokens, cost_nusd, unpriced, estimated, cache_hits, saved_nusd,
    rated, quality_ppm
FROM hourly_sums AS u JOIN usage_tags AS t ON t.id = u.tag WHERE u.slice = 0;

DROP VIEW usage_daily;
CREATE VIEW usage_daily AS
SELECT day, provider, upstream_model, chain, client, department, agent, task, key, stream, sum(requests) AS requests,
    sum(requests_ok) AS requests_ok, sum(requests_failed) AS requests_failed, sum(requests_rejected) AS requests_rejected,
    sum(requests_interrupted) AS requests_interrupted, sum(requests_client_gone) AS requests_client_gone,
    sum(requests_failed_over) AS requests_failed_over, sum(duration_us) AS duration_us, sum(first_token_us) AS first_token_us,
    sum(first_tokens) AS first_tokens, sum(attempts) AS attempts, sum(attempts_ok) AS attempts_ok, sum(attempt_duration_us) AS
    attempt_duration_us, sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
    sum(cache_write_tokens) AS cache_write_tokens, sum(output_tokens) AS output_tokens, sum(reasoning_tokens) AS reasoning_tokens,
    sum(input_audio_tokens) AS input_audio_tokens, sum(output_audio_tokens) AS output_audio_tokens, sum(cost_nusd) AS cost_nusd,
    sum(at_risk_tokens) AS at_risk_tokens, sum(unpriced) AS unpriced, sum(estimated) AS estimated, sum(cache_hits) AS cache_hits,
    sum(saved_nusd) AS saved_nusd, sum(rated) AS rated, sum(quality_ppm) AS quality_ppm
FROM (
    SELECT tag, day, requests, requests_ok, requests_failed, requests_rejected, requests_interrupted, requests_client_gone,
        requests_failed_over, duration_us, first_token_us, first_tokens, attempts, attempts_ok, attempt_duration_us, input_tokens,
        cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, input_audio_tokens, output_audio_tokens, cost_nusd,
        at_risk_tokens, unpriced, estimated, cache_hits, saved_nusd, rated, quality_ppm
    FROM daily_sums WHERE slice = 0 UNION ALL
    SELECT tag, day, requests, requests_ok, requests_failed, requests_rejected, requests_interrupted, requests_client_gone,
        requests_failed_over, duration_us, first_token_us, first_tokens, attempts, attempts_ok, attempt_duration_us, input_tokens,
        cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, input_audio_tokens, output_audio_tokens, cost_nusd,
        at_risk_tokens, unpriced, estimated, cache_hits, saved_nusd, rated, quality_ppm
    FROM past_daily_sums
) AS u JOIN usage_tags AS t ON t.id = u.tag GROUP BY day, tag;
