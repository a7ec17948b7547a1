"""Values that can be written to a file, because they can be made again from their configuration."""

from typing import Any


class Configured:
    """A value with a configuration: `type(value)(**value.config())` makes an equal one.

    Args:
        name: The name that is printed and written to files.
    """

    name: str = "configured"

    def config(self) -> dict[str, Any]:
        """The keyword arguments for the class that make an equal value."""
        raise NotImplementedError(f"{type(self).__name__} has no `config`.")
