-- The tools that were applied. A deleted one keeps its row, and its version goes on counting when it is
-- applied again: results are cached under name and version, and must not come back to life.
CREATE SEQUENCE tools.changes;

CREATE TABLE tools.registry (
    tenant      text        NOT NULL,
    name        text        NOT NULL,
    version     bigint      NOT NULL,
    -- A serialized peregrine.api.tools.v1.Tool with its defaults written out; empty when deleted.
    tool        bytea       NOT NULL,
    deleted     boolean     NOT NULL DEFAULT false,
    -- Rises with every change of the table, in the order of commits (writers hold a lock): workers ask
    -- for what is beyond the last one they saw.
    change      bigint      NOT NULL DEFAULT nextval('tools.changes'),
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, name)
);

CREATE INDEX registry_changes ON tools.registry (change);

-- Answered request ids. `outcome` is what a repetition is told: a version, or 1 or 0 for a deletion.
CREATE TABLE tools.requests (
    tenant      text        NOT NULL,
    request_id  text        NOT NULL,
    digest      bytea       NOT NULL,
    outcome     bigint      NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, request_id)
);

CREATE INDEX requests_oldest ON tools.requests (tenant, create_time);

ALTER TABLE tools.registry ENABLE ROW LEVEL SECURITY;
ALTER TABLE tools.registry FORCE ROW LEVEL SECURITY;
ALTER TABLE tools.requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE tools.requests FORCE ROW LEVEL SECURITY;

CREATE POLICY tenant ON tools.registry
    USING (tenant = current_setting('peregrine.tenant', true));
-- '*' is a worker that follows the tools of everybody.
CREATE POLICY follow ON tools.registry FOR SELECT
    USING (current_setting('peregrine.tenant', true) = '*');
CREATE POLICY tenant ON tools.requests
    USING (tenant = current_setting('peregrine.tenant', true));
