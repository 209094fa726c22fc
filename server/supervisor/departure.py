"""How a supervisor leaves: it takes its engine workers along, or leaves them to its successor."""

from __future__ import annotations


class Departure:
    def __init__(self, life: int | None) -> None:
        self.life = life
        """The read end of the pipe that engine workers live as long as; None: as the supervisor."""
        self.ends_engines = life is None
        """Whether engine workers go with it, as when the whole service stops. Else they live on,
        whatever becomes of the supervisor."""
        self.is_leaving = False

    @property
    def leaves_engines(self) -> bool:
        return self.is_leaving and not self.ends_engines
