"""The errors that a user can mend: each says what was wanted, what came, and what to do."""


class InputError(ValueError):
    """A file, an option or a model that outgrow can't work with; the command line prints one line and exits with 2."""


class GrowthError(InputError):
    """A model that can't be read, or a change of it that can't be made; the network is as it was before."""


class EditError(GrowthError):
    """An edit that would have changed what the network computes; the network is as it was before."""
