"""One small tree of errors. The UI and the CLI show `str(error)`: one sentence on what happened, one on what to do.

TrellisError
├── PictureError      the picture cannot be used
├── MeshError         the mesh cannot be used
├── BundleError       the model bundle is missing, incomplete or does not fit
├── SettingsError     a setting is out of range or contradicts another
├── MachineError      the machine lacks memory, disk space, a GPU or an optional package
└── EmptyAssetError   a stage produced nothing to continue with
"""

from __future__ import annotations


class TrellisError(Exception):
    """Base of all errors a user may see; `what` happened and what `to_do` about it, one sentence each."""

    def __init__(self, what: str, to_do: str) -> None:
        super().__init__(f"{what} {to_do}")
        self.what = what
        self.to_do = to_do

    def __reduce__(self) -> tuple[type[TrellisError], tuple[str, str]]:
        """Errors travel between processes: of workers, and of a Space's borrowed GPU."""
        return type(self), (self.what, self.to_do)


class PictureError(TrellisError):
    """The picture cannot be used."""


class MeshError(TrellisError):
    """The mesh cannot be used."""


class BundleError(TrellisError):
    """The model bundle is missing, incomplete or does not fit the code."""


class SettingsError(TrellisError):
    """A setting is out of range or contradicts another."""


class MachineError(TrellisError):
    """The machine lacks memory, disk space, a GPU or an optional package."""


class EmptyAssetError(TrellisError):
    """A stage produced nothing to continue with."""
