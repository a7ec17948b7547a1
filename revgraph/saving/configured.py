"""What can be written to a file: values that are made again from their configuration."""


class Configured:
    """A value with a configuration: `type(value)(**value.config())` makes an equal one.

    Args:
        name: What it is called, if not as its class.
    """

    name = "configured"

    def config(self) -> dict:
        """The keyword arguments of its class that make an equal value."""
        raise NotImplementedError(f"{type(self).__name__} has no `config`.")
