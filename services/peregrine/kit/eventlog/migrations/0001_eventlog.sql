-- Logs, their durable entries, and finished logs folded into one row.
CREATE SCHEMA IF NOT EXISTS eventlog;

CREATE TABLE eventlog.logs (
    log_id uuid PRIMARY KEY,
    tenant text NOT NULL,
    owner text,
    epoch bigint NOT NULL DEFAULT 1,
    -- starts[e] is the first position written under epoch e; NULL when that owner never got to writing.
    -- Its length is the newest epoch that may have written.
    starts bigint[] NOT NULL DEFAULT '{1}',
    lease_until timestamptz NOT NULL,
    durable_sequence bigint NOT NULL DEFAULT 0,
    finished boolean NOT NULL DEFAULT false,
    folded boolean NOT NULL DEFAULT false,
    expire_time timestamptz,
    create_time timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);

-- No index holds lease_until or durable_sequence, so that renewals and flushes stay heap-only (HOT)
-- updates; a scan for expired leases reads the unfinished logs, which are few.
CREATE INDEX logs_unfinished ON eventlog.logs (log_id) WHERE NOT finished;
CREATE INDEX logs_unfolded ON eventlog.logs (expire_time) WHERE finished AND NOT folded;
CREATE INDEX logs_folded ON eventlog.logs (expire_time) WHERE folded;

CREATE TABLE eventlog.entries (
    log_id uuid NOT NULL,
    sequence bigint NOT NULL,
    tenant text NOT NULL,
    epoch bigint NOT NULL,
    payload bytea NOT NULL,
    PRIMARY KEY (log_id, sequence)
);

CREATE TABLE eventlog.folds (
    log_id uuid PRIMARY KEY,
    tenant text NOT NULL,
    data bytea NOT NULL,
    last_sequence bigint NOT NULL,
    expire_time timestamptz NOT NULL
);
CREATE INDEX folds_expire ON eventlog.folds (expire_time);
-- The data is compressed already.
ALTER TABLE eventlog.folds ALTER COLUMN data SET STORAGE EXTERNAL;

ALTER TABLE eventlog.logs ENABLE ROW LEVEL SECURITY;
ALTER TABLE eventlog.logs FORCE ROW LEVEL SECURITY;
ALTER TABLE eventlog.entries ENABLE ROW LEVEL SECURITY;
ALTER TABLE eventlog.entries FORCE ROW LEVEL SECURITY;
ALTER TABLE eventlog.folds ENABLE ROW LEVEL SECURITY;
ALTER TABLE eventlog.folds FORCE ROW LEVEL SECURITY;

CREATE POLICY tenant_rows ON eventlog.logs USING (
    tenant = current_setting('peregrine.tenant', true)
    OR current_setting('peregrine.tenant', true) = '*'
);
CREATE POLICY tenant_rows ON eventlog.entries USING (
    tenant = current_setting('peregrine.tenant', true)
    OR current_setting('peregrine.tenant', true) = '*'
);
CREATE POLICY tenant_rows ON eventlog.folds USING (
    tenant = current_setting('peregrine.tenant', true)
    OR current_setting('peregrine.tenant', true) = '*'
);
