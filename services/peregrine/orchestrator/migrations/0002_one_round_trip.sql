-- The two moments of a run that its caller waits for, each one transaction in one round trip.

-- Accepts a run: its row and its log, leased to a_owner. No row when the request id is known.
CREATE FUNCTION orchestrator.start_run(
    a_tenant text, a_user text, a_run uuid, a_agent text, a_agent_version bigint, a_spec bytea,
    a_conversation uuid, a_new_conversation boolean, a_request text, a_digest bytea, a_input bytea,
    a_state smallint, a_seconds float8, a_owner text, a_lease float8
) RETURNS SETOF orchestrator.runs LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    INSERT INTO orchestrator.runs (run_id, tenant, user_id, agent, agent_version, spec,
        conversation_id, new_conversation, request_id, request_digest, input, state, deadline_time)
    VALUES (a_run, a_tenant, a_user, a_agent, a_agent_version, a_spec, a_conversation,
        a_new_conversation, a_request, a_digest, a_input, a_state,
        now() + make_interval(secs => a_seconds))
    ON CONFLICT (tenant, user_id, request_id) WHERE request_id IS NOT NULL DO NOTHING
    RETURNING *;
    IF FOUND THEN
        PERFORM eventlog.open_log(a_tenant, a_user, a_run, a_owner, a_lease);
    END IF;
END $$;

-- Ends a run: the last entries of its log (see eventlog.settle) and how it ended, or nothing when the log
-- is no longer this owner's.
CREATE FUNCTION orchestrator.finish_run(
    a_tenant text, a_user text, a_log uuid, a_epoch bigint, a_durable bigint, a_last bigint,
    a_finished boolean, a_released boolean, a_lease float8, a_retention float8,
    a_sequences bigint[], a_entry_epochs bigint[], a_payloads bytea[],
    a_state smallint, a_outcome bytea,
    OUT moved boolean
) LANGUAGE plpgsql AS $$
BEGIN
    moved := eventlog.settle(a_tenant, a_user, a_log, a_epoch, a_durable, a_last, a_finished,
        a_released, a_lease, a_retention, a_sequences, a_entry_epochs, a_payloads);
    IF moved THEN
        UPDATE orchestrator.runs AS r
        SET state = a_state, outcome = a_outcome, last_sequence = a_last,
            finish_time = clock_timestamp()
        WHERE r.run_id = a_log;
    END IF;
END $$;

-- Takes back a run that nobody was told of: its log ends, its row goes.
CREATE FUNCTION orchestrator.remove_run(
    a_tenant text, a_user text, a_log uuid, a_epoch bigint, a_durable bigint, a_last bigint,
    a_finished boolean, a_released boolean, a_lease float8, a_retention float8,
    a_sequences bigint[], a_entry_epochs bigint[], a_payloads bytea[],
    OUT moved boolean
) LANGUAGE plpgsql AS $$
BEGIN
    moved := eventlog.settle(a_tenant, a_user, a_log, a_epoch, a_durable, a_last, a_finished,
        a_released, a_lease, a_retention, a_sequences, a_entry_epochs, a_payloads);
    IF moved THEN
        DELETE FROM orchestrator.runs AS r WHERE r.run_id = a_log;
    END IF;
END $$;
