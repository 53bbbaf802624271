"""The SQL of the logs, but for the functions on a run's way (`migrations/`). What each statement
promises is said in `store`."""

# A new owner's first statement on a log: the adopted entries, and where its own will start.
ADOPT = """
WITH moved AS (
    UPDATE eventlog.logs AS l
    SET durable_sequence = $4::bigint, starts[l.epoch] = $4::bigint + 1,
        lease_until = clock_timestamp() + make_interval(secs => $5)
    WHERE l.log_id = $1 AND l.epoch = $2 AND l.durable_sequence = $3 AND NOT l.finished
    RETURNING l.log_id, l.tenant
), put AS (
    INSERT INTO eventlog.entries (log_id, sequence, tenant, epoch, payload)
    SELECT m.log_id, e.sequence, m.tenant, e.epoch, e.payload
    FROM unnest($6::bigint[], $7::bigint[], $8::bytea[]) AS e(sequence, epoch, payload)
    CROSS JOIN moved AS m
)
SELECT log_id FROM moved
"""

STANDING = """
SELECT log_id, epoch, durable_sequence, finished FROM eventlog.logs WHERE log_id = ANY($1::uuid[])
"""

# A row that somebody holds at this moment (a flush, a finish, a claim) is passed over, so that one
# slow transaction cannot keep the leases of all the others from being renewed.
RENEW = """
WITH mine AS (
    SELECT l.log_id
    FROM eventlog.logs AS l
    JOIN unnest($1::uuid[], $2::bigint[]) AS w(log_id, epoch)
      ON l.log_id = w.log_id AND l.epoch = w.epoch
    WHERE NOT l.finished
    FOR UPDATE OF l SKIP LOCKED
)
UPDATE eventlog.logs AS l
SET lease_until = clock_timestamp() + make_interval(secs => $3)
FROM mine WHERE l.log_id = mine.log_id
RETURNING l.log_id
"""

CLAIM = """
WITH due AS (
    SELECT log_id, owner AS former
    FROM eventlog.logs
    WHERE NOT finished AND lease_until < clock_timestamp()
    ORDER BY lease_until
    LIMIT $2
    FOR UPDATE SKIP LOCKED
)
UPDATE eventlog.logs AS l
SET owner = $1, epoch = l.epoch + 1, lease_until = clock_timestamp() + make_interval(secs => $3)
FROM due WHERE l.log_id = due.log_id
RETURNING l.tenant, l.log_id, l.epoch, l.durable_sequence, due.former,
    cardinality(l.starts) AS writer_epoch, l.starts[cardinality(l.starts)] AS writer_start
"""

RELEASE_ALL = """
UPDATE eventlog.logs AS l SET owner = NULL, lease_until = clock_timestamp()
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS w(log_id, epoch, durable)
WHERE l.log_id = w.log_id AND l.epoch = w.epoch AND l.durable_sequence = w.durable
  AND NOT l.finished
"""

# One statement, so one snapshot: entries cannot be folded away between the look at the log and the
# look at its entries.
PAGE = """
SELECT l.starts, l.durable_sequence, l.finished, l.folded, f.data,
       e.sequence, e.epoch, e.payload
FROM eventlog.logs AS l
LEFT JOIN eventlog.folds AS f ON l.folded AND f.log_id = l.log_id
LEFT JOIN LATERAL (
    SELECT sequence, epoch, payload FROM eventlog.entries
    WHERE log_id = l.log_id AND sequence > $2 ORDER BY sequence LIMIT $3
) AS e ON true
WHERE l.log_id = $1
"""

PROGRESS = """
SELECT log_id, tenant, durable_sequence, cardinality(starts) AS epoch, finished
FROM eventlog.logs WHERE log_id = ANY($1::uuid[])
"""

UNFOLDED = """
SELECT log_id, tenant, durable_sequence, expire_time FROM eventlog.logs
WHERE finished AND NOT folded
ORDER BY expire_time LIMIT $1 FOR UPDATE SKIP LOCKED
"""

ENTRIES = """
SELECT sequence, epoch, payload FROM eventlog.entries WHERE log_id = $1 ORDER BY sequence
"""

FOLD = """
WITH gone AS (DELETE FROM eventlog.entries WHERE log_id = $1),
marked AS (UPDATE eventlog.logs SET folded = true WHERE log_id = $1)
INSERT INTO eventlog.folds (log_id, tenant, data, last_sequence, expire_time)
VALUES ($1, $2, $3, $4, $5)
"""

EXPIRE_FOLDS = """
DELETE FROM eventlog.folds WHERE log_id IN (
    SELECT log_id FROM eventlog.folds WHERE expire_time < clock_timestamp()
    ORDER BY expire_time LIMIT $1
)
"""

# The row outlives its entries, so that a late reader learns that they are gone, not that they
# never were.
EXPIRE_LOGS = """
DELETE FROM eventlog.logs WHERE log_id IN (
    SELECT log_id FROM eventlog.logs
    WHERE folded AND expire_time < clock_timestamp() - make_interval(secs => $2)
    ORDER BY expire_time LIMIT $1
)
"""
