"""Every failure has a code, one sentence and a family; the family says what happens next.

A caller never matches on text: the class is the fact, its attributes are the evidence.
"""

from enum import StrEnum
from typing import Any


class Family(StrEnum):
    """What the one who catches it does next."""

    RETRY = "retry"  # the other side is away; the same call may succeed later
    DEAD_LETTER = "dead_letter"  # this record is bad, its neighbours are not
    REFUSE = "refuse"  # the request is wrong; asking again changes nothing
    STOP = "stop"  # going on would break a promise; a person or a restart decides


class VigilError(Exception):
    """Base of every error of ours; `str(error)` is the sentence a user reads.

    `code` is stable and upper case, `status` the HTTP status, `exit_code` the command line's; `evidence`
    names the attributes (JSON values, also the constructor's arguments) that travel in an HTTP answer.
    """

    code: str = "INTERNAL"
    family: Family = Family.STOP
    status: int = 500
    exit_code: int = 1
    remedy: str = ""
    evidence: tuple[str, ...] = ()

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy or self.remedy

    @property
    def message(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Comes out of another process as it was: its evidence says what happens next."""
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[VigilError], args: tuple[Any, ...], evidence: dict[str, Any]) -> VigilError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(evidence)
    return error


class BadRecord(VigilError):
    """One payment is not acceptable. `code` is a code of feature_repo.parser; never echoes the payload."""

    family = Family.DEAD_LETTER

    def __init__(self, code: str, detail: str, *, status: int = 422, field: str = "") -> None:
        super().__init__(detail)
        self.code = code
        self.status = status
        self.field = field


class DependencyDown(VigilError):
    """A server we need does not answer, refuses us, or is the wrong version."""

    code = "DEPENDENCY_DOWN"
    family = Family.RETRY
    status = 503
    exit_code = 4
    remedy = "vigil status says what runs; vigil up --only NAME starts one server and what it needs, vigil up all"

    def __init__(self, dependency: str, address: str, cause: str, *, remedy: str = "") -> None:
        super().__init__(f"{dependency} at {address}: {cause}", remedy=remedy)
        self.dependency = dependency
        self.address = address
        self.cause = cause


class StoreUnavailable(DependencyDown):
    code = "STORE_UNAVAILABLE"


class SnapshotUnreadable(DependencyDown):
    """The current snapshot of merchants is named but cannot be read: payments wait, none is scored without it.

    Its code is DependencyDown's, as what happens next is the same: the next snapshot mends it.
    """

    def __init__(self, address: str, snapshot_id: str, cause: str) -> None:
        super().__init__(
            "Redis",
            address,
            f"the snapshot of merchants {snapshot_id} cannot be read: {cause}",
            remedy="publish a snapshot anew: vigil replay --data NAME --online",
        )


class BadConfiguration(VigilError):
    """A file, flag or setting cannot be used."""

    code = "BAD_CONFIGURATION"
    family = Family.REFUSE
    status = 422
    exit_code = 2


class AlreadyRunning(VigilError):
    code = "ALREADY_RUNNING"
    family = Family.REFUSE
    status = 409
    exit_code = 5

    def __init__(self, what: str, pid: int) -> None:
        super().__init__(f"{what} is already running (pid {pid})")
        self.pid = pid


class PromotionRefused(VigilError):
    """The version may not become champion; `failures` names each failing check with its evidence."""

    code = "PROMOTION_REFUSED"
    family = Family.REFUSE
    status = 409
    exit_code = 6

    def __init__(self, version: str, failures: list[str]) -> None:
        super().__init__(f"version {version} refused: {'; '.join(failures)}")
        self.version = version
        self.failures = failures


class DataInvalid(VigilError):
    """A data set failed validation; `failures` names each expectation."""

    code = "DATA_INVALID"
    family = Family.REFUSE
    status = 422
    exit_code = 3

    def __init__(self, name: str, failures: list[str]) -> None:
        super().__init__(f"data set {name} is not fit for training: {'; '.join(failures)}")
        self.failures = failures


# ---- model and features -------------------------------------------------------------------------


class FeatureSetMismatch(VigilError):
    """The columns offered are not the columns the model was trained on."""

    code = "FEATURE_SET_MISMATCH"
    family = Family.REFUSE
    status = 422
    evidence = ("expected", "offered")

    def __init__(self, expected: str, offered: str) -> None:
        super().__init__(f"the model consumes {expected}, offered was {offered}")
        self.expected = expected
        self.offered = offered


class FeatureInvalid(VigilError):
    """A feature value is NaN or infinite. `row` counts from 0 in the request."""

    code = "FEATURE_INVALID"
    family = Family.REFUSE
    status = 422
    evidence = ("row", "column")

    def __init__(self, row: int, column: str) -> None:
        super().__init__(f"row {row}, column {column} is not a finite number")
        self.row = row
        self.column = column


class BatchTooLarge(VigilError):
    code = "BATCH_TOO_LARGE"
    family = Family.REFUSE
    status = 413
    evidence = ("rows", "limit")

    def __init__(self, rows: int, limit: int) -> None:
        super().__init__(f"{rows} rows in one request, the limit is {limit}")
        self.rows = rows
        self.limit = limit


class ModelVersionMismatch(VigilError):
    """The pinned version is not loaded here; `loaded` lists what is."""

    code = "MODEL_VERSION_MISMATCH"
    family = Family.RETRY
    status = 409
    evidence = ("asked", "loaded")

    def __init__(self, asked: str, loaded: list[str]) -> None:
        super().__init__(f"version {asked} is not loaded, loaded are {', '.join(loaded) or 'none'}")
        self.asked = asked
        self.loaded = loaded


class ModelLoading(VigilError):
    code = "MODEL_LOADING"
    family = Family.RETRY
    status = 503

    def __init__(self) -> None:
        super().__init__("no model is loaded yet; the alias 'champion' may not be set")


class ModelOutputInvalid(VigilError):
    code = "MODEL_OUTPUT_INVALID"
    status = 500
    evidence = ("version", "what")

    def __init__(self, version: str, what: str) -> None:
        super().__init__(f"version {version} gave {what}")
        self.version = version
        self.what = what


class ArtifactCorrupt(VigilError):
    """A model artefact failed an integrity check: `check` is its name, in snake case."""

    code = "ARTIFACT_CORRUPT"
    family = Family.REFUSE
    status = 422

    def __init__(self, artifact: str, what: str, *, check: str = "artifact") -> None:
        super().__init__(f"{artifact}: {what}")
        self.check = check
        self.what = what


# ---- HTTP requests to our services ------------------------------------------------------------------


class PathUnknown(VigilError):
    code = "NOT_FOUND"
    family = Family.REFUSE
    status = 404

    def __init__(self) -> None:
        super().__init__("there is nothing at this path")


class MethodNotAllowed(VigilError):
    code = "METHOD_NOT_ALLOWED"
    family = Family.REFUSE
    status = 405

    def __init__(self, allowed: list[str]) -> None:
        super().__init__(f"this path answers {', '.join(allowed) or 'no method'}")
        self.allowed = allowed


class MediaTypeUnsupported(VigilError):
    code = "UNSUPPORTED_MEDIA_TYPE"
    family = Family.REFUSE
    status = 415

    def __init__(self, accepted: str) -> None:
        super().__init__(f"the body must come with Content-Type {accepted}" if accepted else "no body is taken here")
        self.accepted = accepted


class ParameterInvalid(VigilError):
    """A query parameter is unknown or cannot be used; `name` is one of ours, or empty for an unknown one."""

    code = "PARAMETER_INVALID"
    family = Family.REFUSE
    status = 422

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name} {what}" if name else what)
        self.name = name


class IdConflict(VigilError):
    """The user's last payments hold this transaction id with another payload."""

    code = "ID_CONFLICT"
    family = Family.REFUSE
    status = 409

    def __init__(self) -> None:
        super().__init__("this transaction_id was used with another payload among the user's last payments")


# ---- the stream's order ---------------------------------------------------------------------------


class LedgerMoved(VigilError):
    """Another job committed this partition's range, or an older PostgreSQL came `back`; this job changes nothing."""

    code = "LEDGER_MOVED"
    exit_code = 7

    def __init__(self, topic: str, partition: int, *, back: bool = False) -> None:
        how = "the ledger stands before what this job decided" if back else "another attempt moved the ledger"
        super().__init__(f"{topic}-{partition}: {how}")


class Fenced(VigilError):
    """Another attempt holds this partition's fence in Redis; nothing was written."""

    code = "FENCED"
    exit_code = 7

    def __init__(self, partition: int) -> None:
        super().__init__(f"partition {partition}: another attempt holds the fence; nothing was written")


class PlacementDiffers(VigilError):
    """Users lie in other partitions than the settings say: their states would not be found, and read as empty."""

    code = "PLACEMENT_DIFFERS"
    exit_code = 8
    status = 503

    def __init__(self, settings: str, found: str) -> None:
        """Each is `PARTITIONS PARTITIONER`."""
        partitions, partitioner = found.split()
        super().__init__(
            f"users are placed by {found}, the settings say {settings}",
            remedy=f"VIGIL_PARTITIONS={partitions} VIGIL_PARTITIONER={partitioner}, and start this process anew;"
            " only vigil topic grow adds partitions",
        )


class GrowthUnfinished(VigilError):
    """`vigil topic grow` was cut short: some users' states are where they were, others where they are to be."""

    code = "GROWTH_UNFINISHED"
    exit_code = 8
    status = 503

    def __init__(self, partitions: int) -> None:
        super().__init__(
            f"the topic of payments is being grown to {partitions} partitions, and that is not finished",
            remedy=f"vigil topic grow --partitions {partitions}",
        )


class StateLost(VigilError):
    """PostgreSQL has decisions but Redis has no state for them: scoring would start from empty history."""

    code = "STATE_LOST"
    exit_code = 8
    remedy = "vigil state rebuild"

    def __init__(self, partition: int, committed_until: int) -> None:
        super().__init__(
            f"partition {partition}: decided up to offset {committed_until}, but Redis holds no user state"
        )


class StateAhead(VigilError):
    """Redis has folded payments PostgreSQL does not know: PostgreSQL came back from an older backup."""

    code = "STATE_AHEAD"
    exit_code = 8
    remedy = "vigil state rebuild"

    def __init__(self, partition: int, folded_until: int, committed_until: int) -> None:
        super().__init__(
            f"partition {partition}: user state has folded up to {folded_until}, "
            f"the ledger only up to {committed_until}"
        )


class StateBehind(VigilError):
    """Redis came back from an older snapshot under a running job: payments are decided that no state knows of."""

    code = "STATE_BEHIND"
    exit_code = 8
    remedy = "start the stream again, as the local stack does by itself: it first folds what the states lack"

    def __init__(self, partition: int, folded_until: int, first: int, *, gone: bool = False) -> None:
        """`gone` where Kafka no longer has what lies between."""
        super().__init__(
            f"partition {partition}: user state has folded up to {folded_until} only, this range begins at {first}",
            remedy="vigil state rebuild" if gone else "",
        )


class StateCorrupt(VigilError):
    """A user state record has a wrong magic, version, owner or checksum."""

    code = "STATE_CORRUPT"
    exit_code = 8
    remedy = "vigil state rebuild"


class StateLayoutUnknown(StateCorrupt):
    """A sound record of a layout this build cannot read: a newer one's, or one that cannot be carried over."""

    code = "STATE_LAYOUT_UNKNOWN"

    def __init__(self, layout: int, current: int) -> None:
        if layout > current:
            what, remedy = "a newer build wrote it", "run the newer build, or vigil state rebuild with this one"
        else:
            what, remedy = "it lacks what this build remembers", self.remedy
        super().__init__(f"a state record has layout {layout}, this build {current}: {what}", remedy=remedy)
        self.layout = layout


class StateUnknown(VigilError):
    """No payment of this user was ever folded in, or the record was swept after a long silence."""

    code = "STATE_UNKNOWN"
    family = Family.REFUSE
    status = 404
    exit_code = 2

    def __init__(self, user_id: str) -> None:
        super().__init__(f"there is no state of user {user_id}")
        self.user_id = user_id


class SnapshotCorrupt(VigilError):
    """A snapshot of user states is not what was written: a file is gone, or its bytes are others."""

    code = "SNAPSHOT_CORRUPT"
    family = Family.REFUSE
    exit_code = 8

    def __init__(self, snapshot: str, what: str) -> None:
        super().__init__(f"snapshot of user states {snapshot}: {what}")
        self.what = what


class StateSourceMissing(VigilError):
    """Neither a snapshot nor the log holds all payments that the states of a partition are made of."""

    code = "STATE_SOURCE_MISSING"
    exit_code = 8
    remedy = "vigil state rebuild --from-history NAME, with a history that reaches to where the log begins"

    def __init__(self, partition: int, why: list[str]) -> None:
        super().__init__(f"partition {partition} cannot be rebuilt: {'; '.join(why)}")
        self.partition = partition
        self.why = why


class StatesInUse(VigilError):
    """The live user states hold payments of the stream; a history's states may not replace them."""

    code = "STATES_IN_USE"
    family = Family.REFUSE
    status = 409
    exit_code = 5
    remedy = "vigil reset to start over, or --force to replace the states all the same"

    def __init__(self, topic: str, partition: int, committed_until: int) -> None:
        super().__init__(
            f"the stream has decided {topic}-{partition} up to offset {committed_until}: its user states "
            "hold payments that a history does not"
        )


class ParityBroken(VigilError):
    """Features the stream logged are not those the raw payments give."""

    code = "PARITY_BROKEN"
    exit_code = 10
    remedy = "vigil parity --json names them"

    def __init__(self, mismatched: int, checked: int) -> None:
        super().__init__(f"{mismatched} of {checked} decisions have other features than their raw payments give")
        self.mismatched = mismatched
        self.checked = checked


class Unreconciled(VigilError):
    """Kafka, the ledger, the tables and the search index do not tell the same story; `codes` names what differs."""

    code = "UNRECONCILED"
    exit_code = 10
    remedy = "vigil reconcile --json names cause and remedy of each"

    def __init__(self, codes: list[str]) -> None:
        super().__init__(f"the stores disagree: {', '.join(codes)}")
        self.codes = codes


class DeadLetterUnknown(VigilError):
    code = "DEAD_LETTER_UNKNOWN"
    family = Family.REFUSE
    status = 404
    exit_code = 2
    remedy = "vigil dlq list"

    def __init__(self, coordinates: str) -> None:
        super().__init__(f"there is no dead letter {coordinates}")


class ReplayRefused(VigilError):
    """A dead letter cannot be produced again; `code` is PAYLOAD_INCOMPLETE, NOT_A_PAYMENT or ALREADY_PRODUCED."""

    family = Family.REFUSE
    status = 409
    exit_code = 2

    def __init__(self, coordinates: str, code: str, why: str) -> None:
        super().__init__(f"{coordinates}: {why}")
        self.code = code


class RecordViewReadOnly(VigilError):
    """Feast was asked to write a view whose rows are state records: only the stream writes those."""

    code = "RECORD_VIEW_READ_ONLY"
    family = Family.REFUSE
    status = 409
    exit_code = 2
    evidence = ("view",)
    remedy = "vigil replay --online writes user states from a history, vigil stream from the topic"

    def __init__(self, view: str) -> None:
        super().__init__(f"view {view} holds user state records, which Feast reads but never writes")
        self.view = view


class RowRefused(VigilError):
    """PostgreSQL refuses a row of a range for what is in it; `sqlstate` is its word for why (class 22 or 23)."""

    code = "ROW_REFUSED"

    def __init__(self, topic: str, partition: int, sqlstate: str) -> None:
        super().__init__(f"{topic}-{partition}: PostgreSQL refused a row (SQLSTATE {sqlstate}); nothing was committed")
        self.sqlstate = sqlstate


class RecordsGone(VigilError):
    """Kafka deleted records before they were decided: it keeps them for a shorter time than the stream was away."""

    code = "RECORDS_GONE"
    exit_code = 8
    remedy = "produce them again, then vigil stream --accept-gone: it goes on from the oldest record there is"

    def __init__(self, topic: str, partition: int, first: int, until: int) -> None:
        super().__init__(f"{topic}-{partition}: offsets {first} to {until - 1} have no outcome and are gone from Kafka")


class WorkerDied(VigilError):
    """A task's process died, or broke off with an error that is none of ours."""

    code = "WORKER_DIED"
    family = Family.RETRY

    def __init__(self, cause: str) -> None:
        super().__init__(f"a worker of the stream broke off: {cause}")


class StreamStopped(VigilError):
    """Spark gave the stream's query up, or died, for a reason that is none of ours."""

    code = "STREAM_STOPPED"
    remedy = "vigil logs stream; started again, as the local stack does by itself, it goes on from the ledger"

    def __init__(self, cause: str) -> None:
        super().__init__(f"Spark ended the stream: {cause}")


class WindowsStopped(VigilError):
    """Spark ended a query of windowed metrics."""

    code = "WINDOWS_STOPPED"

    def __init__(self, query: str, checkpoint: str, cause: str) -> None:
        super().__init__(
            f"the query {query} ended: {cause}",
            remedy=f"vigil logs windows; where its checkpoint is at fault, remove {checkpoint} and it counts anew",
        )


class SchemaBreak(VigilError):
    """More than 20 % and over 50 bad records in one range: a producer changed its format."""

    code = "SCHEMA_BREAK"
    exit_code = 9

    def __init__(self, partition: int, first: int, last: int, bad: int, total: int, code: str) -> None:
        super().__init__(
            f"partition {partition}, offsets {first} to {last}: {bad} of {total} records are bad, "
            f"most often {code}; nothing was committed",
            remedy=f"vigil stream --accept-dead-letters {partition}:{first}-{last}",
        )
