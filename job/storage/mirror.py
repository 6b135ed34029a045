"""What a run makes on this machine, brought to its store as it is made, and back onto an empty disk."""

from typing import Protocol


class Mirror(Protocol):
    """The store's copy of `stages/` and of the caches; nothing of it is needed where the output is local."""

    def restore_stage(self, stage: str, fingerprint: str) -> None:
        """Bring a stage's result to `root/stages/<stage>/<fingerprint>/`, or what an interrupted attempt left
        of it to `<fingerprint>.partial/scratch/`, where the store has it and this machine does not."""

    def keep_stage(self, stage: str, fingerprint: str) -> None:
        """Have a finished stage's result brought to the store, soon and in the background."""

    def restore_cache(self, group: str) -> None:
        """Bring every file of `cache/<group>/` that the store has and this machine lacks, and have new ones
        brought to the store from now on. The second call for a group does nothing."""

    def flush(self) -> None:
        """Return when everything made so far is in the store; raises what stands in the way."""


class NoMirror:
    """The mirror of a local output: there is nothing to bring anywhere."""

    def restore_stage(self, stage: str, fingerprint: str) -> None:
        """Do nothing."""

    def keep_stage(self, stage: str, fingerprint: str) -> None:
        """Do nothing."""

    def restore_cache(self, group: str) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""
