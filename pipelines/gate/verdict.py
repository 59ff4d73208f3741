"""What the gate says: one outcome per named check, and whether a person's word may stand above it."""

from dataclasses import asdict, dataclass, field
from typing import Any

INSUFFICIENT_EVIDENCE = "INSUFFICIENT_EVIDENCE"


@dataclass(frozen=True)
class Check:
    """`passed` is None where there was nothing to check it with: skipped, and `detail` says why.

    An `integrity` check asks whether the version is what it says it is; no override covers it.
    """

    name: str
    passed: bool | None
    detail: str
    integrity: bool = False

    @property
    def sentence(self) -> str:
        return f"{self.name} ({self.detail})"


@dataclass(frozen=True)
class Verdict:
    """`numbers` is the evidence behind the checks: JSON, the same in the report and on its page."""

    version: str
    checks: tuple[Check, ...]
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        return [check.sentence for check in self.checks if check.passed is False]

    def refusals(self, override: str | None) -> list[str]:
        """The failures that stand: with an override those of integrity, without one all of them."""
        standing = [check for check in self.checks if check.passed is False and (override is None or check.integrity)]
        return [check.sentence for check in standing]

    def as_json(self) -> dict[str, Any]:
        return {"version": self.version, "checks": [asdict(check) for check in self.checks], **self.numbers}
