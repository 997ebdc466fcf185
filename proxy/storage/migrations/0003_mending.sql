-- What is needed to hold sums against rows, and to price attempts again; docs/ledger.md.

-- `rows_gone_until_ms`: the latest time of a row that was forgotten. In the hours after it every row is there.
CREATE TABLE marks (
    name TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;

-- Older ledgers do not say until when: an attempt begins at most an hour after its request.
INSERT INTO marks
SELECT 'rows_gone_until_ms', coalesce((SELECT min(time_ms) + 3600000 FROM request_rows), max(hour) * 3600000 + 3599999)
FROM hourly_sums WHERE slice = 1
HAVING min(hour) < coalesce((SELECT min(time_ms) / 3600000 FROM request_rows), 1 << 40);

-- What an attempt cost before it was priced again. It goes with its row.
CREATE TABLE repriced (
    request_id TEXT NOT NULL,
    n INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,                -- when it was priced again
    cost_nusd INTEGER,                       -- what it had been until then; NULL: no price was known
    price_source TEXT,
    PRIMARY KEY (request_id, n, time_ms)
) WITHOUT ROWID;
