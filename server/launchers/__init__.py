"""Starts and ends worker processes. `Launcher` is the seam; `LocalLauncher` uses this machine."""

from server.launchers.launcher import Launcher, Process, ProcessSpec
from server.launchers.local import LocalLauncher

__all__ = ["Launcher", "LocalLauncher", "Process", "ProcessSpec"]
