-- Sums of weeks and months, so that a report on long times reads few rows; and failovers by the day. docs/ledger.md explains.

-- Added up from the days that are over, one day of a slice at a time; what comes late for such a day is added in all of them at once.
CREATE TABLE weekly_sums (
    slice INTEGER NOT NULL,
    week INTEGER NOT NULL,                        -- weeks since 1970, each from Monday on (UTC); the rest as by the hour
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
    cache_hits INTEGER NOT NULL,
    saved_nusd INTEGER NOT NULL,
    rated INTEGER NOT NULL,
    quality_ppm INTEGER NOT NULL,
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
    PRIMARY KEY (slice, week, tag)
) WITHOUT ROWID;

CREATE TABLE monthly_sums (
    slice INTEGER NOT NULL,
    month INTEGER NOT NULL,                       -- months since January 1970 (UTC); the rest as by the hour
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
    cache_hits INTEGER NOT NULL,
    saved_nusd INTEGER NOT NULL,
    rated INTEGER NOT NULL,
    quality_ppm INTEGER NOT NULL,
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
    PRIMARY KEY (slice, month, tag)
) WITHOUT ROWID;

-- Which days are in them: from `from_day` up to and without `until_day`. Days before `from_day` were forgotten, not all of their week.
CREATE TABLE summed_days (
    slice INTEGER NOT NULL PRIMARY KEY,
    from_day INTEGER NOT NULL,
    until_day INTEGER NOT NULL
);

CREATE TABLE failovers_daily (
    day INTEGER NOT NULL,
    chain TEXT NOT NULL,
    from_target TEXT NOT NULL,
    to_target TEXT NOT NULL,
    reason TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (day, chain, from_target, to_target, reason)
) WITHOUT ROWID;
INSERT INTO failovers_daily
SELECT hour / 24, chain, from_target, to_target, reason, sum(count) FROM failovers_hourly GROUP BY 1, 2, 3, 4, 5;

INSERT INTO summed_days
SELECT slice, 0, (SELECT max(day) FROM daily_sums WHERE slice = 1) FROM usage_slices
WHERE EXISTS (SELECT 1 FROM daily_sums WHERE slice = 1);

CREATE TEMP VIEW days_over AS
SELECT slice, day, tag, requests, requests_ok, requests_failed, requests_rejected, requests_interrupted, requests_client_gone,
    requests_failed_over, duration_us, first_token_us, first_tokens, cache_hits, saved_nusd, rated, quality_ppm,
    attempts, attempts_ok, attempt_duration_us, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
    reasoning_tokens, input_audio_tokens, output_audio_tokens, cost_nusd, at_risk_tokens, unpriced, estimated,
    durations, first_token_times FROM main.daily_sums WHERE day < (SELECT until_day FROM main.summed_days WHERE slice = 1) UNION ALL
SELECT 0, day, tag, requests, requests_ok, requests_failed, requests_rejected, requests_interrupted, requests_client_gone,
    requests_failed_over, duration_us, first_token_us, first_tokens, cache_hits, saved_nusd, rated, quality_ppm, attempts,
    attempts_ok, attempt_duration_us, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
    input_audio_tokens, output_audio_tokens, cost_nusd, at_risk_tokens, unpriced, estimated, durations, first_token_times FROM
    main.past_daily_sums WHERE day < (SELECT until_day FROM main.summed_days WHERE slice = 1);

INSERT INTO weekly_sums (slice, week, tag, requests, requests_ok, requests_failed, requests_rejected, requests_interrupted,
    requests_client_gone, requests_failed_over, duration_us, first_token_us, first_tokens, cache_hits, saved_nusd, rated,
    quality_ppm, attempts, attempts_ok, attempt_duration_us, input_tokens, cached_input_tokens, cache_write_tokens,
    output_tokens, reasoning_tokens, input_audio_tokens, output_audio_tokens, cost_nusd, at_risk_tokens, unpriced, estimated,
    durations, first_token_times)
SELECT slice, (day + 3) / 7, tag, sum(requests), sum(requests_ok), sum(requests_failed), sum(requests_rejected),
    sum(requests_interrupted), sum(requests_client_gone), sum(requests_failed_over), sum(duration_us), sum(first_token_us),
    sum(first_tokens), sum(cache_hits), sum(saved_nusd), sum(rated), sum(quality_ppm), sum(attempts), sum(attempts_ok),
    sum(attempt_duration_us), sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens),
    sum(reasoning_tokens), sum(input_audio_tokens), sum(output_audio_tokens), sum(cost_nusd), sum(at_risk_tokens),
    sum(unpriced), sum(estimated), shorten(group_concat(durations, '')), shorten(group_concat(first_token_times, ''))
FROM temp.days_over GROUP BY 1, 2, 3;

INSERT INTO monthly_sums (slice, month, tag, requests, requests_ok, requests_failed, requests_rejected, requests_interrupted,
    requests_client_gone, requests_failed_over, duration_us, first_token_us, first_tokens, cache_hits, saved_nusd, rated,
    quality_ppm, attempts, attempts_ok, attempt_duration_us, input_tokens, cached_input_tokens, cache_write_tokens,
    output_tokens, reasoning_tokens, input_audio_tokens, output_audio_tokens, cost_nusd, at_risk_tokens, unpriced, estimated,
    durations, first_token_times)
SELECT slice, CAST(strftime('%Y', day * 86400, 'unixepoch') AS INTEGER) * 12 + CAST(strftime('%m', day * 86400, 'unixepoch') AS
    INTEGER) - 23641, tag, sum(requests), sum(requests_ok), sum(requests_failed), sum(requests_rejected),
    sum(requests_interrupted), sum(requests_client_gone), sum(requests_failed_over), sum(duration_us), sum(first_token_us),
    sum(first_tokens), sum(cache_hits), sum(saved_nusd), sum(rated), sum(quality_ppm), sum(attempts), sum(attempts_ok),
    sum(attempt_duration_us), sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens),
    sum(reasoning_tokens), sum(input_audio_tokens), sum(output_audio_tokens), sum(cost_nusd), sum(at_risk_tokens),
    sum(unpriced), sum(estimated), shorten(group_concat(durations, '')), shorten(group_concat(first_token_times, ''))
FROM temp.days_over GROUP BY 1, 2, 3;

DROP VIEW temp.days_over;
