"""`StandIn`: an object that stands for an analyzer, and answers some questions itself."""

from typing import Any

from revgraph.analyzers.analyzer import Analyzer
from revgraph.graph.tables import Tabular


class StandIn(Tabular):
    """Stands for an analyzer: has its class for `isinstance`, and asks it what it does not answer itself.

    Args:
        kind: The class of the analyzer.
    """

    def __init__(self, kind: type[Analyzer]) -> None:
        self.kind = kind

    def known(self) -> Analyzer:
        """The analyzer for which it stands.

        Raises:
            AttributeError: There is none yet.
        """
        raise NotImplementedError

    @property  # type: ignore[misc]
    def __class__(self) -> type[Analyzer]:  # type: ignore[override]
        return self.__dict__.get("kind", StandIn)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "kind" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.known(), name)

    def __dir__(self) -> list[str]:
        try:
            known: Any = self.known()
        except AttributeError:
            known = self.kind
        return sorted({*object.__dir__(self), *dir(known)})

    def __copy__(self) -> Any:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    __reduce_ex__ = Analyzer.__reduce_ex__
