"""What a log can refuse.

Fenced       this owner lost the log: another one holds a higher epoch, or it was released
LogFinished  the terminal entry is there, nothing follows it
LogNotFound  no such log for this tenant
LogCompacted the log was finished so long ago that its entries are gone
"""

from uuid import UUID

from peregrine.kit import errors


class Fenced(errors.Aborted):
    def __init__(self, log_id: UUID, epoch: int, why: str) -> None:
        super().__init__(
            f"log {log_id}: epoch {epoch} no longer owns it ({why})",
            reason="LOG_FENCED",
            metadata={"log_id": str(log_id), "epoch": str(epoch)},
        )


class LogFinished(errors.FailedPrecondition):
    def __init__(self, log_id: UUID) -> None:
        super().__init__(f"log {log_id} is finished", reason="LOG_FINISHED")


class LogNotFound(errors.NotFound):
    def __init__(self, log_id: UUID) -> None:
        super().__init__(f"there is no log {log_id}", reason="LOG_NOT_FOUND")


class LogCompacted(errors.OutOfRange):
    def __init__(self, log_id: UUID) -> None:
        super().__init__(
            f"the entries of log {log_id} are no longer kept", reason="EVENTS_COMPACTED"
        )


def unavailable(what: str, *, reason: str, retry_after: float = 1.0) -> errors.Unavailable:
    return errors.Unavailable(what, reason=reason, retry_after=retry_after)
