-- What WRITE tools were asked to do, by idempotency key: written before the effect, ended after it.
CREATE TABLE tools.effects (
    tenant      text        NOT NULL,
    user_id     text        NOT NULL,
    key         text        NOT NULL,
    -- Of the tool and its arguments: the same key for another call is a mistake.
    digest      bytea       NOT NULL,
    -- A serialized peregrine.api.tools.v1.ToolResult without its call_id; NULL until it has ended.
    result      bytea,
    -- The worker that executes it, which says every second that it lives.
    owner       uuid        NOT NULL,
    alive_until timestamptz NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, user_id, key)
);

CREATE INDEX effects_under_way ON tools.effects (owner) WHERE result IS NULL;
CREATE INDEX effects_oldest ON tools.effects (create_time);

ALTER TABLE tools.effects ENABLE ROW LEVEL SECURITY;
ALTER TABLE tools.effects FORCE ROW LEVEL SECURITY;

CREATE POLICY tenant ON tools.effects USING (tenant = current_setting('peregrine.tenant', true));
-- '*' is a worker that says that it lives, or forgets what is old.
CREATE POLICY process ON tools.effects USING (current_setting('peregrine.tenant', true) = '*');
