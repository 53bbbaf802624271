-- Agents and runs. What happened in a run is in its log (schema eventlog, log_id = run_id); a row here
-- says what was asked and how it ended.
CREATE SCHEMA IF NOT EXISTS orchestrator;

CREATE TABLE orchestrator.agents (
    tenant      text        NOT NULL,
    name        text        NOT NULL,
    version     bigint      NOT NULL,
    spec        bytea       NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, name)
);

ALTER TABLE orchestrator.agents ENABLE ROW LEVEL SECURITY;
ALTER TABLE orchestrator.agents FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON orchestrator.agents
    USING (tenant = current_setting('peregrine.tenant', true));

CREATE TABLE orchestrator.runs (
    run_id           uuid        PRIMARY KEY,
    tenant           text        NOT NULL,
    user_id          text        NOT NULL,
    agent            text        NOT NULL,
    agent_version    bigint      NOT NULL,
    spec             bytea       NOT NULL,
    conversation_id  uuid        NOT NULL,
    new_conversation boolean     NOT NULL,
    request_id       text,
    request_digest   bytea       NOT NULL,
    input            bytea       NOT NULL,
    state            smallint    NOT NULL,
    cancel_requested boolean     NOT NULL DEFAULT false,
    takeovers        integer     NOT NULL DEFAULT 0,
    outcome          bytea,
    last_sequence    bigint      NOT NULL DEFAULT 0,
    create_time      timestamptz NOT NULL DEFAULT now(),
    deadline_time    timestamptz NOT NULL,
    finish_time      timestamptz
) WITH (fillfactor = 80);

CREATE UNIQUE INDEX runs_request ON orchestrator.runs (tenant, user_id, request_id)
    WHERE request_id IS NOT NULL;
CREATE INDEX runs_newest ON orchestrator.runs (tenant, user_id, create_time DESC, run_id DESC);
CREATE INDEX runs_conversation
    ON orchestrator.runs (tenant, user_id, conversation_id, create_time DESC, run_id DESC);

ALTER TABLE orchestrator.runs ENABLE ROW LEVEL SECURITY;
ALTER TABLE orchestrator.runs FORCE ROW LEVEL SECURITY;
-- '*' is the owner of runs at work for all of them: take-over, cancel flags, the end of a run.
CREATE POLICY own ON orchestrator.runs
    USING (
        (tenant = current_setting('peregrine.tenant', true)
            AND user_id = current_setting('peregrine.user', true))
        OR current_setting('peregrine.tenant', true) = '*'
    );
