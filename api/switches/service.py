"""Shows the switches of the stream and throws them."""

from api.switches.repository import SwitchRepository
from api.switches.schemas import Name, Standing, SwitchBody, Switches
from feature_repo.errors import ParameterInvalid
from feature_repo.switches import STATES

SHOWN = 50  # of the history


class SwitchService:
    def __init__(self, repository: SwitchRepository) -> None:
        self._repository = repository

    def all(self) -> Switches:
        return Switches.model_validate(
            {"switches": self._repository.standing(), "history": self._repository.history(SHOWN)}
        )

    def throw(self, name: Name, body: SwitchBody, actor: str) -> Standing:
        """Raises ParameterInvalid for a state of the other switch."""
        if body.state not in STATES[name]:
            raise ParameterInvalid("state", f"of {name} is {' or '.join(STATES[name])}")
        self._repository.throw(name, body.state, actor, body.reason)
        (row,) = (row for row in self._repository.standing() if row["name"] == name)
        return Standing(**row)
