-- What MCP servers offer, as it was seen first and approved since; followed by every worker.
CREATE TABLE tools.listings (
    tenant      text        NOT NULL,
    -- Of the applied tool that declares the server.
    name        text        NOT NULL,
    -- Of its URL or command: another server has pins of its own.
    backend     bytea       NOT NULL,
    -- JSON: the pinned tools.
    listing     bytea       NOT NULL,
    change      bigint      NOT NULL DEFAULT nextval('tools.changes'),
    update_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, name, backend)
);

CREATE INDEX listings_changes ON tools.listings (change);

ALTER TABLE tools.listings ENABLE ROW LEVEL SECURITY;
ALTER TABLE tools.listings FORCE ROW LEVEL SECURITY;

CREATE POLICY tenant ON tools.listings USING (tenant = current_setting('peregrine.tenant', true));
-- '*' is a worker that follows the tools of everybody.
CREATE POLICY follow ON tools.listings FOR SELECT
    USING (current_setting('peregrine.tenant', true) = '*');
