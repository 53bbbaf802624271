-- What is on a run's way, as functions: each is a transaction of its own in one round trip. The first two
-- arguments are the tenant ('*' is all) and the user for whom row-level security was opened.

CREATE FUNCTION eventlog.open_log(
    a_tenant text, a_user text, a_log uuid, a_owner text, a_lease float8
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO eventlog.logs (log_id, tenant, owner, lease_until)
    VALUES (a_log, a_tenant, a_owner, clock_timestamp() + make_interval(secs => a_lease));
END $$;

-- Fenced by epoch and by position in the same statement that takes the row lock, so that whatever another
-- owner does comes wholly before (and then nothing matches) or wholly after. Returns the logs that moved.
CREATE FUNCTION eventlog.flush(
    a_tenant text, a_user text,
    a_logs uuid[], a_epochs bigint[], a_first bigint[], a_last bigint[],
    a_ids uuid[], a_sequences bigint[], a_entry_epochs bigint[], a_payloads bytea[], a_lease float8
) RETURNS TABLE (moved_log uuid) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    WITH moved AS (
        UPDATE eventlog.logs AS l
        SET durable_sequence = w.last,
            lease_until = clock_timestamp() + make_interval(secs => a_lease)
        FROM unnest(a_logs, a_epochs, a_first, a_last) AS w(log_id, epoch, first, last)
        WHERE l.log_id = w.log_id AND l.epoch = w.epoch AND l.durable_sequence = w.first - 1
          AND NOT l.finished
        RETURNING l.log_id, l.tenant
    ), put AS (
        INSERT INTO eventlog.entries (log_id, sequence, tenant, epoch, payload)
        SELECT e.log_id, e.sequence, m.tenant, e.epoch, e.payload
        FROM unnest(a_ids, a_sequences, a_entry_epochs, a_payloads)
            AS e(log_id, sequence, epoch, payload)
        JOIN moved AS m USING (log_id)
    )
    SELECT m.log_id FROM moved AS m;
END $$;

-- The last write of an owner on one log, behind the same fence: it is finished, or released to be claimed.
CREATE FUNCTION eventlog.settle(
    a_tenant text, a_user text, a_log uuid, a_epoch bigint, a_durable bigint, a_last bigint,
    a_finished boolean, a_released boolean, a_lease float8, a_retention float8,
    a_sequences bigint[], a_entry_epochs bigint[], a_payloads bytea[],
    OUT moved boolean
) LANGUAGE plpgsql AS $$
DECLARE
    owner_tenant text;
BEGIN
    UPDATE eventlog.logs AS l
    SET durable_sequence = a_last,
        finished = a_finished,
        owner = CASE WHEN a_finished OR a_released THEN NULL ELSE l.owner END,
        lease_until = clock_timestamp()
            + make_interval(secs => CASE WHEN a_finished OR a_released THEN 0 ELSE a_lease END),
        expire_time = CASE
            WHEN a_finished THEN clock_timestamp() + make_interval(secs => a_retention) END
    WHERE l.log_id = a_log AND l.epoch = a_epoch AND l.durable_sequence = a_durable
      AND NOT l.finished
    RETURNING l.tenant INTO owner_tenant;
    moved := FOUND;
    IF moved THEN
        INSERT INTO eventlog.entries (log_id, sequence, tenant, epoch, payload)
        SELECT a_log, e.sequence, owner_tenant, e.epoch, e.payload
        FROM unnest(a_sequences, a_entry_epochs, a_payloads) AS e(sequence, epoch, payload);
    END IF;
END $$;
