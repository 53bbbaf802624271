-- MCP servers that every worker connects to by itself, at its start and when it hears of them: somebody
-- who uses them asked for that, and asks again for as long as he does.
CREATE TABLE tools.wanted (
    tenant text        NOT NULL,
    -- Of the applied tool that declares the server.
    name   text        NOT NULL,
    until  timestamptz NOT NULL,
    change bigint      NOT NULL DEFAULT nextval('tools.changes'),
    PRIMARY KEY (tenant, name)
);

CREATE INDEX wanted_changes ON tools.wanted (change);

ALTER TABLE tools.wanted ENABLE ROW LEVEL SECURITY;
ALTER TABLE tools.wanted FORCE ROW LEVEL SECURITY;

CREATE POLICY tenant ON tools.wanted USING (tenant = current_setting('peregrine.tenant', true));
-- '*' is a worker that follows the tools of everybody.
CREATE POLICY follow ON tools.wanted FOR SELECT
    USING (current_setting('peregrine.tenant', true) = '*');
