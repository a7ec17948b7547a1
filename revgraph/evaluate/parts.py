"""`Part`: one input of a model, and how it falls into units."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """The samples of one input of a model, and how they fall into units.

    Args:
        name: The name of the input.
        x: Its samples, (samples, ...).
        axis: The axis whose entries belong to one unit, such as the colours of a pixel; None if there is none.
        ids: Whether entries are ids, such as those of tokens.
        padding: True at units that only fill the batch, (samples, units); None where none do.
        zero: What `baseline="zero"` puts in: the number zero, or the id that stands for padding.
        mask: The id that stands for a hidden token; None where there is none.
    """

    name: str
    x: np.ndarray
    axis: int | None = None
    ids: bool = False
    padding: np.ndarray | None = None
    zero: int = 0
    mask: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of x without its channels, (samples, ...)."""
        return tuple(n for axis, n in enumerate(self.x.shape) if axis != self.axis)

    @property
    def count(self) -> int:
        """The number of units of a sample."""
        return int(np.prod(self.shape[1:]))

    def spread(self, units: np.ndarray) -> np.ndarray:
        """Values of units, (samples, units), in the shape of x, with one entry in place of all channels."""
        units = units.reshape(self.shape)
        return units if self.axis is None else np.expand_dims(units, self.axis)

    def of_units(self, values: np.ndarray, name: str = "relevance") -> np.ndarray:
        """Values of entries of x as values of units, (samples, units): summed over channels.

        Args:
            values: Of the shape of x, or of x without channels.
            name: What a message calls them.

        Raises:
            ValueError: The shape is another one, or a value is not finite.
        """
        if values.shape == self.x.shape and self.axis is not None:
            values = values.sum(axis=self.axis)
        if values.shape != self.shape:
            raise ValueError(
                f"{name} of {self.name!r} must have the shape of x, {self.x.shape}, or that without channels, "
                f"{self.shape}. Received shape {values.shape}."
            )
        values = values.reshape(len(values), -1)
        broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(broken):
            raise ValueError(f"{name} must be finite. It is not in {len(broken)} samples; the first is {broken[0]}.")
        return values

    def true(self, mask: np.ndarray) -> np.ndarray:
        """A mask of entries of x as one of units, (samples, units).

        Args:
            mask: Array of bool, of the shape of x or of x without channels.

        Raises:
            ValueError: It is no such array.
        """
        if mask.dtype != bool or mask.shape not in (self.shape, self.x.shape):
            raise ValueError(
                f"truth is an array of bool of shape {self.shape}, with one entry per unit. Received: {mask.dtype}, "
                f"shape {mask.shape}."
            )
        return (mask if mask.shape == self.shape else mask.any(axis=self.axis)).reshape(len(mask), -1)
