"""What Triton reads: a folder that shows it one build of the repository, whatever else lies there by now."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from spanqa.startup import versions_in
from spanqa_server.errors import RepositoryError
from spanqa_server.repository import CONFIG_FILE, ModelFolder, is_of_build, seal_of


class View:
    """A folder of links to version folders of a repository, with the configurations that belong to them.

    Triton loads a model's newest version whenever it loads it, after a fault too. It finds the one that is to be
    served here: the next build may lie in the repository for days before it is asked for.

    Args:
        folder: The folder: made here.
        repository: The repository.
    """

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder = folder
        self._repository = repository.absolute()
        self._told = repository
        folder.mkdir()

    def show(self, models: Sequence[ModelFolder], *, beside: Mapping[str, Collection[int]] | None = None) -> None:
        """Show these models and nothing else.

        Args:
            models: The models.
            beside: Other versions of them to be shown too, by model, as far as they still lie in the repository.

        Raises:
            RepositoryError: If the folders cannot be read or written.
        """
        # Beside the old view first: where the disk is full, that one must stay.
        new = self.folder.with_name(f"{self.folder.name}.new")
        try:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            for model in models:
                self._show(new, model, {model.version, *(beside or {}).get(model.name, ())})
            for path in self.folder.iterdir():
                path.unlink() if path.is_symlink() else shutil.rmtree(path)
            for path in new.iterdir():
                path.rename(self.folder / path.name)
        except OSError as error:
            raise RepositoryError(f"{self._told} cannot be read: {error}: ask for the reload again") from error

    def _show(self, folder: Path, model: ModelFolder, versions: Collection[int]) -> None:
        origin, place = self._repository / model.name, folder / model.name
        if not is_of_build(model.name):
            place.symlink_to(origin)  # it may serve versions as it likes
            return
        place.mkdir()
        (place / CONFIG_FILE).write_bytes(model.config)
        here = {str(version) for version in versions_in(origin)}
        shown = here & {str(version) for version in versions}
        for path in origin.iterdir():
            if path.name in shown or path.name not in here | {CONFIG_FILE}:
                (place / path.name).symlink_to(path)

    def versions_of(self, name: str) -> set[int]:
        """Give the versions of a model that are shown."""
        return set(versions_in(self.folder / name))

    def has(self, models: Sequence[ModelFolder]) -> bool:
        """Say whether the versions of these models still lie in the repository, and are of the same build."""
        try:
            return all(
                model.version in versions_in(self._repository / model.name)
                and model.seal == seal_of(self._repository / model.name, model.version)
                for model in models
                if is_of_build(model.name)
            )
        except OSError:
            return False

    def in_repository(self, text: str) -> str:
        """Give a text with the repository's own paths for those of the view."""
        return text.replace(str(self.folder), str(self._told))
