// A series by the minute. The ledger's sums go by the hour; for the last hour the rows themselves are few enough to be counted here.

const MINUTE_MS = 60_000;

/** `rows` of requests, newest first -> a row a minute from `from` to `to` (milliseconds), in the shape of /api/v1/timeseries. */
export function byMinute(rows, from, to) {
    const first = Math.floor(from / MINUTE_MS);
    const last = Math.floor(to / MINUTE_MS);
    const made = [];
    for (let minute = first; minute <= last; minute += 1) {
        made.push({
            time: new Date(minute * MINUTE_MS).toISOString(),
            requests: 0,
            ok: 0,
            failed: 0,
            failed_over: 0,
            cost_usd: 0,
            input_tokens: 0,
            output_tokens: 0,
            took: [],
            firsts: [],
        });
    }
    for (const row of rows) {
        const slot = made[Math.floor(Date.parse(row.time) / MINUTE_MS) - first];
        if (slot === undefined || row.outcome === "running") continue;
        slot.requests += 1;
        if (row.outcome === "ok") slot.ok += 1;
        if (row.outcome === "failed") slot.failed += 1;
        if (row.outcome === "ok" && row.attempts - (row.hedged ? 1 : 0) > 1) slot.failed_over += 1;
        slot.cost_usd += Number(row.cost_usd ?? 0);
        slot.input_tokens += row.input_tokens ?? 0;
        slot.output_tokens += row.output_tokens ?? 0;
        if (row.outcome === "ok" && row.duration_ms != null) slot.took.push(row.duration_ms);
        if (row.first_token_ms != null) slot.firsts.push(row.first_token_ms);
    }
    return made.map(({ took, firsts, ...row }) => ({
        ...row,
        p50_ms: quantile(took, 0.5),
        p95_ms: quantile(took, 0.95),
        first_token_p95_ms: quantile(firsts, 0.95),
    }));
}

/** Of what is there, the value at that share; null of nothing. */
export function quantile(values, part) {
    if (values.length === 0) return null;
    const sorted = [...values].sort((a, b) => a - b);
    return sorted[Math.min(sorted.length - 1, Math.ceil(part * sorted.length) - 1)];
}
