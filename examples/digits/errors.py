"""What ends the demonstration."""

from __future__ import annotations

from dcn_deploy.errors import DcnDeployError


class DemonstrationError(DcnDeployError, RuntimeError):
    """A step ran, but its result is not what it has to be."""
